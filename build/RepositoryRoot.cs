namespace Peft;

/// <summary>The checkout that this program was built in. One file, compiled into the build, the tests, the benchmarks and the sample.</summary>
internal static class RepositoryRoot
{
    /// <summary>The folder with PeftModule.sln above the program.</summary>
    public static string Folder { get; } = Find();

    private static string Find()
    {
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "PeftModule.sln")))
        {
            folder = folder.Parent;
        }

        return folder?.FullName ?? throw new DirectoryNotFoundException($"There is no PeftModule.sln above {AppContext.BaseDirectory}: run this from a checkout.");
    }
}
