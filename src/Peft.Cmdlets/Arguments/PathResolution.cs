using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>Paths as a user types them: relative to <c>$PWD</c>, with wildcards or literal, on a drive of PowerShell's or the file system's.</summary>
internal static class PathResolution
{
    private const string FileSystem = "FileSystem";

    /// <summary>The file or folders that a path with wildcards names.</summary>
    /// <exception cref="PeftException"><c>PathNotFound</c> or <c>PathNotOnFileSystem</c>.</exception>
    public static IReadOnlyList<string> Resolve(PSCmdlet cmdlet, string path)
    {
        try
        {
            var found = cmdlet.GetResolvedProviderPathFromPSPath(path, out var provider);
            RequireFileSystem(provider, path);
            return found.Count > 0 ? found : throw NotFound(path, innerException: null);
        }
        catch (SessionStateException error)
        {
            throw NotFound(path, error);
        }
    }

    /// <summary>The full path of what a path without wildcards names.</summary>
    /// <exception cref="PeftException"><c>PathNotFound</c> or <c>PathNotOnFileSystem</c>.</exception>
    public static string ResolveLiteral(PSCmdlet cmdlet, string path)
    {
        var full = Target(cmdlet, path);
        return Path.Exists(full) ? full : throw NotFound(path, innerException: null);
    }

    /// <summary>The full path of what is to be written; it need not exist.</summary>
    /// <exception cref="PeftException"><c>PathNotFound</c> (no such drive) or <c>PathNotOnFileSystem</c>.</exception>
    public static string Target(PSCmdlet cmdlet, string path)
    {
        try
        {
            var full = cmdlet.SessionState.Path.GetUnresolvedProviderPathFromPSPath(path, out var provider, out _);
            RequireFileSystem(provider, path);
            return Path.GetFullPath(full);
        }
        catch (SessionStateException error)
        {
            throw NotFound(path, error);
        }
    }

    private static void RequireFileSystem(ProviderInfo provider, string path)
    {
        if (provider.Name != FileSystem)
        {
            throw new PeftException("PathNotOnFileSystem", $"'{path}' is on PowerShell's {provider.Name} drive, not on the file system.")
            {
                Target = path,
                RecommendedAction = "Give the path of a file or folder.",
            };
        }
    }

    private static PeftException NotFound(string path, Exception? innerException) =>
        new("PathNotFound", $"'{path}' does not exist.", innerException)
        {
            Target = path,
            RecommendedAction = "Relative paths start at $PWD; use -LiteralPath where the name holds [ or ].",
        };
}
