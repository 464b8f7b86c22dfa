namespace Peft.Hub;

/// <summary>Files of one commit of a repository, whole on this machine.</summary>
/// <param name="HubName">The repository's name on the hub.</param>
/// <param name="Revision">The branch, tag or commit that was asked for.</param>
/// <param name="Commit">The commit it stood for.</param>
/// <param name="Path">The folder of the files.</param>
/// <param name="Files">Paths of the files that were asked for, below the folder, with <c>/</c>.</param>
/// <param name="Bytes">Their bytes together.</param>
public sealed record HubSnapshot(string HubName, string Revision, string Commit, string Path, IReadOnlyList<string> Files, long Bytes)
{
    /// <summary>What the cache has of a repository.</summary>
    /// <param name="repository">The repository.</param>
    /// <param name="folder">Its folder in the cache.</param>
    /// <param name="choose">Which of the files that are there.</param>
    public static HubSnapshot Of(HubRepository repository, string folder, Func<IReadOnlyList<HubFile>, IReadOnlyList<HubFile>> choose)
    {
        ArgumentNullException.ThrowIfNull(repository);
        ArgumentNullException.ThrowIfNull(choose);
        var files = choose([.. Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Where(File.Exists)
            .Select(file => new HubFile(System.IO.Path.GetRelativePath(folder, file).Replace('\\', '/'), new FileInfo(file).Length, string.Empty))]);
        return new HubSnapshot(repository.Name, repository.Revision, System.IO.Path.GetFileName(folder), folder, [.. files.Select(static file => file.Path)], files.Sum(static file => file.Size));
    }

    /// <summary>The folder, for those who take a path.</summary>
    public override string ToString() => Path;
}

/// <summary>How far a download is.</summary>
/// <param name="Bytes">Bytes that are there, those of earlier tries among them.</param>
/// <param name="TotalBytes">Bytes of all files.</param>
/// <param name="Received">Bytes that came over the network this time.</param>
/// <param name="Files">Files that are there.</param>
/// <param name="TotalFiles">All files.</param>
public readonly record struct HubProgress(long Bytes, long TotalBytes, long Received, int Files, int TotalFiles);

/// <summary>How to fetch a repository's files.</summary>
public sealed record HubDownloadOptions
{
    /// <summary>How to reach the hub.</summary>
    public HubSettings Settings { get; init; } = new();

    /// <summary>Which of the listed files to fetch. Default: those of a model or an adapter.</summary>
    public Func<IReadOnlyList<HubFile>, IReadOnlyList<HubFile>> Choose { get; init; } = HubModelFiles.Choose;

    /// <summary>Hears how far it is.</summary>
    public Action<HubProgress>? OnProgress { get; init; }

    /// <summary>Hears of waits and lost connections.</summary>
    public Action<string>? OnMessage { get; init; }

    /// <summary>Ends it; what came is kept, and the next time goes on there.</summary>
    public CancellationToken Cancellation { get; init; }
}
