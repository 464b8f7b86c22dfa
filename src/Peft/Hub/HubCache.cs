namespace Peft.Hub;

/// <summary>
/// The Hugging Face hub's cache on this machine, as its Python client lays it out:
/// <c>models--owner--name/refs/&lt;revision&gt;</c> holds a commit, <c>snapshots/&lt;commit&gt;/</c> that commit's files.
/// </summary>
public static class HubCache
{
    /// <summary>The cache's folder: <c>HF_HUB_CACHE</c>, else <c>HF_HOME/hub</c>, else <c>~/.cache/huggingface/hub</c>.</summary>
    public static string Folder => HubSettings.Variable("HF_HUB_CACHE") ?? Path.Combine(HomeFolder, "hub");

    /// <summary>Where the hub's tools keep what is theirs: <c>HF_HOME</c>, else <c>~/.cache/huggingface</c>.</summary>
    internal static string HomeFolder => HubSettings.Variable("HF_HOME") ?? Path.Combine(
        HubSettings.Variable("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"), "huggingface");

    /// <summary>The folder that holds a cached model's or adapter's files.</summary>
    /// <param name="name">Its name on the hub, such as <c>owner/model</c>.</param>
    /// <param name="revision">A branch, a tag or a commit.</param>
    /// <param name="cacheFolder">The cache; null for <see cref="Folder"/>.</param>
    /// <exception cref="PeftException"><c>HubNameInvalid</c>, <c>HubModelNotCached</c>, or <c>HubCacheInvalid</c>: the revision's file names no commit.</exception>
    public static string Find(string name, string revision = "main", string? cacheFolder = null) => Find(new HubRepository(name, revision), cacheFolder);

    /// <summary>The folder that holds a cached repository's files.</summary>
    /// <param name="repository">The repository.</param>
    /// <param name="cacheFolder">The cache; null for <see cref="Folder"/>.</param>
    /// <exception cref="PeftException"><c>HubModelNotCached</c> or <c>HubCacheInvalid</c>: the revision's file names no commit.</exception>
    public static string Find(HubRepository repository, string? cacheFolder = null)
    {
        ArgumentNullException.ThrowIfNull(repository);
        return TryFind(repository, cacheFolder) ?? throw new PeftException(
            "HubModelNotCached", $"'{repository.Name}' at revision '{repository.Revision}' is not in the hub's cache at '{cacheFolder ?? Folder}'.")
        {
            Target = repository.Name,
            RecommendedAction = $"Fetch it with 'Save-HubModel {repository.Name}' where there is a network, or set HF_HOME to the cache that holds it.",
        };
    }

    /// <summary>As <see cref="Find(HubRepository, string?)"/>, but null where it is not cached.</summary>
    /// <param name="repository">Which repository, and at which revision.</param>
    /// <param name="cacheFolder">The cache; null for <see cref="Folder"/>.</param>
    /// <exception cref="PeftException"><c>HubCacheInvalid</c>.</exception>
    public static string? TryFind(HubRepository repository, string? cacheFolder = null)
    {
        ArgumentNullException.ThrowIfNull(repository);
        var folder = Path.Combine(cacheFolder ?? Folder, repository.FolderName);
        var reference = Path.Combine(folder, "refs", repository.Revision);
        var snapshot = Path.Combine(folder, "snapshots", File.Exists(reference) ? Commit(reference) : repository.Revision);
        return Directory.Exists(snapshot) ? snapshot : null;
    }

    /// <summary>Whether a model's or an adapter's folder has the weights that its own files speak of: what a download that was cut off leaves has not.</summary>
    /// <param name="folder">A folder of <see cref="Find(HubRepository, string?)"/>.</param>
    public static bool IsWhole(string folder)
    {
        // A pipeline is whole where each of its models is.
        if (File.Exists(Path.Combine(folder, HubModelFiles.PipelineIndex)))
        {
            string[] parts = [.. Directory.EnumerateDirectories(folder).Where(static part => File.Exists(Path.Combine(part, "config.json")))];
            return parts.Length > 0 && parts.All(IsWhole);
        }

        string[] names = [.. Directory.EnumerateFiles(folder).Where(File.Exists).Select(Path.GetFileName).OfType<string>()];
        return names.Any(HubModelFiles.IsWeights) && names.Where(HubModelFiles.IsIndex).All(index => Shards(Path.Combine(folder, index)).All(names.Contains));
    }

    /// <summary>What to load of a model's folder: the one GGUF file where nothing else is there, else the folder.</summary>
    public static string ModelIn(string folder) => !File.Exists(Path.Combine(folder, "config.json")) && Directory.GetFiles(folder, "*.gguf") is [var file] ? file : folder;

    private static IEnumerable<string> Shards(string index) =>
        Files.JsonFile.ReadObject(index).TryGetProperty("weight_map", out var map) && map.ValueKind == System.Text.Json.JsonValueKind.Object
            ? map.EnumerateObject().Select(static entry => entry.Value.ToString()).Distinct()
            : [];

    /// <summary>Names in the cache, such as <c>owner/model</c>, in order; empty when there is no cache.</summary>
    /// <param name="cacheFolder">The cache; null for <see cref="Folder"/>.</param>
    public static IReadOnlyList<string> Names(string? cacheFolder = null)
    {
        const string prefix = "models--";
        var folder = cacheFolder ?? Folder;
        return !Directory.Exists(folder)
            ? []
            : [.. Directory.EnumerateDirectories(folder, prefix + "*")
                .Select(static path => Path.GetFileName(path)[prefix.Length..].Replace("--", "/", StringComparison.Ordinal))
                .Where(HubRepository.IsName)
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
        return count < longest && HubRepository.IsName(commit) && !commit.Contains('/', StringComparison.Ordinal) && commit != "." ? commit : throw new PeftException(
            "HubCacheInvalid", $"'{reference}' should hold the name of a commit, and holds '{(commit.Length > 80 ? commit[..80] : commit)}'.")
        {
            Target = reference,
            RecommendedAction = "Delete the file and download the model again.",
        };
    }
}
