namespace Peft.Build;

/// <summary>The folders of the checkout that this program was built in.</summary>
internal static class Checkout
{
    /// <summary>The top folder.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>Where everything that is made and not committed goes.</summary>
    public static string Artifacts => Path.Combine(Root, "artifacts");

    /// <summary>A path below the top folder.</summary>
    public static string At(params string[] parts) => Path.Combine([Root, .. parts]);

    private static string FindRoot()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "PeftModule.sln")))
            {
                return folder.FullName;
            }
        }

        throw new BuildException($"No PeftModule.sln above {AppContext.BaseDirectory}: run build.sh or build.ps1 of a checkout.");
    }
}

/// <summary>Something that stops a task, in a sentence for the person who started it.</summary>
internal sealed class BuildException(string message) : Exception(message);
