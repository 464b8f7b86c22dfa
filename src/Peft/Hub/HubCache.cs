namespace Peft.Hub;

/// <summary>
/// The Hugging Face hub's cache on this machine, as its Python client lays it out:
/// <c>models--owner--name/refs/&lt;revision&gt;</c> holds a commit, <c>snapshots/&lt;commit&gt;/</c> that commit's files.
/// </summary>
public static class HubCache
{
    /// <summary>The cache's folder: <c>HF_HUB_CACHE</c>, else <c>HF_HOME/hub</c>, else <c>~/.cache/huggingface/hub</c>.</summary>
    public static string Folder =>
        Variable("HF_HUB_CACHE")
        ?? (Variable("HF_HOME") is { } home ? Path.Combine(home, "hub") : null)
        ?? Path.Combine(
            Variable("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"),
            "huggingface",
            "hub");

    /// <summary>The folder that holds a cached model's or adapter's files.</summary>
    /// <param name="name">Its name on the hub, such as <c>owner/model</c>.</param>
    /// <param name="revision">A branch, a tag or a commit.</param>
    /// <param name="cacheFolder">The cache; null for <see cref="Folder"/>.</param>
    /// <exception cref="PeftException"><c>HubNameInvalid</c>, <c>HubModelNotCached</c>, or <c>HubCacheInvalid</c>: the revision's file names no commit.</exception>
    public static string Find(string name, string revision = "main", string? cacheFolder = null)
    {
        if (!IsName(name) || name.Split('/').Length > 2 || !IsName(revision))
        {
            throw new PeftException("HubNameInvalid", $"'{name}' at revision '{revision}' is not a name on the hub.")
            {
                Target = name,
                RecommendedAction = "Give 'owner/model'; a folder on disk is given by -Path.",
            };
        }

        var repository = Path.Combine(cacheFolder ?? Folder, "models--" + name.Replace("/", "--", StringComparison.Ordinal));
        var reference = Path.Combine(repository, "refs", revision);
        var commit = File.Exists(reference) ? Commit(reference) : revision;
        var snapshot = Path.Combine(repository, "snapshots", commit);
        return Directory.Exists(snapshot) ? snapshot : throw new PeftException(
            "HubModelNotCached", $"'{name}' at revision '{revision}' is not in the hub's cache at '{cacheFolder ?? Folder}'.")
        {
            Target = name,
            RecommendedAction = $"Download it first, for instance with 'hf download {name}', or set HF_HOME to the cache that holds it.",
        };
    }

    /// <summary>Names in the cache, such as <c>owner/model</c>, in order; empty when there is no cache.</summary>
    public static IReadOnlyList<string> Names(string? cacheFolder = null)
    {
        const string prefix = "models--";
        var folder = cacheFolder ?? Folder;
        return !Directory.Exists(folder)
            ? []
            : [.. Directory.EnumerateDirectories(folder, prefix + "*")
                .Select(static path => Path.GetFileName(path)[prefix.Length..].Replace("--", "/", StringComparison.Ordinal))
                .Where(IsName)
                .Order(StringComparer.Ordinal)];
    }

    /// <summary>What a reference points to: one folder's name, whatever the file says.</summary>
    private static string Commit(string reference)
    {
        const int longest = 256;
        var bytes = new byte[longest];
        int count;
        try
        {
            using var file = File.OpenRead(reference);
            count = file.ReadAtLeast(bytes, longest, throwOnEndOfStream: false);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Files.FileErrors.Unreadable(reference, error);
        }

        var commit = System.Text.Encoding.UTF8.GetString(bytes, 0, count).Trim();
        return count < longest && IsName(commit) && !commit.Contains('/', StringComparison.Ordinal) && commit != "." ? commit : throw new PeftException(
            "HubCacheInvalid", $"'{reference}' should hold the name of a commit, and holds '{(commit.Length > 80 ? commit[..80] : commit)}'.")
        {
            Target = reference,
            RecommendedAction = "Delete the file and download the model again.",
        };
    }

    private static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;

    /// <summary>Whether a path made of this stays inside the cache: no root, no way up.</summary>
    private static bool IsName(string name) => name.Length > 0 && name[0] != '/' && !name.Contains("..", StringComparison.Ordinal)
        && name.All(static letter => char.IsAsciiLetterOrDigit(letter) || letter is '/' or '-' or '_' or '.');
}
