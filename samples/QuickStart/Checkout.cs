namespace Peft.Samples.QuickStart;

/// <summary>Where the sample lies.</summary>
internal static class Checkout
{
    /// <summary>The folder with PeftModule.sln above this program, else the current one.</summary>
    public static string Find()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "PeftModule.sln")))
            {
                return folder.FullName;
            }
        }

        return Environment.CurrentDirectory;
    }
}
