using System.Text.Json;
using Peft.Files;

namespace Peft.Hub;

/// <summary>
/// Fetches files from the hub into the cache that Python's tools share: <c>blobs/&lt;hash&gt;</c> holds contents, <c>snapshots/&lt;commit&gt;/</c>
/// links to them under their names, and <c>refs/&lt;revision&gt;</c> says which commit a branch is, written last.
/// </summary>
public sealed class HubDownload
{
    private const int AtOnce = 8;
    private static readonly TimeSpan s_lookAgain = TimeSpan.FromMilliseconds(200);

    private readonly HubRepository _repository;
    private readonly HubDownloadOptions _options;
    private readonly string _folder;
    private readonly Lock _gate = new();
    private HubProgress _progress;

    private HubDownload(HubRepository repository, HubDownloadOptions options)
    {
        _repository = repository;
        _options = options;
        _folder = Path.Combine(options.Settings.CacheFolder, repository.FolderName);
    }

    private string Blobs => Path.Combine(_folder, "blobs");

    /// <summary>Fetches what is not there yet.</summary>
    /// <param name="repository">The repository.</param>
    /// <param name="options">Which files, and how; null for a model's.</param>
    /// <returns>The files.</returns>
    /// <exception cref="PeftException">
    /// <c>HubOffline</c>, <c>HubUnreachable</c>, <c>HubRateLimited</c>, <c>HubRepositoryNotFound</c>, <c>HubRevisionNotFound</c>, <c>HubGated</c>, <c>HubAccessDenied</c>, <c>HubTokenInvalid</c>,
    /// <c>HubAnswerInvalid</c>, <c>HubFileDamaged</c>, <c>HubFileNotFound</c>, <c>HubFileAmbiguous</c>, <c>DiskFull</c> or <c>FileWriteFailed</c>.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static HubSnapshot Run(HubRepository repository, HubDownloadOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(repository);
        options ??= new HubDownloadOptions();
        return options.Settings.IsOffline
            ? throw HubErrors.Offline(repository)
            : new HubDownload(repository, options).RunAsync().GetAwaiter().GetResult();
    }

    private async Task<HubSnapshot> RunAsync()
    {
        using var connection = new HubConnection(_options.Settings, _repository, _options.OnMessage);
        var (commit, all) = Listing(await connection.GetBytesAsync(_repository.ListPath, _options.Cancellation).ConfigureAwait(false));
        var files = _options.Choose(all);
        var snapshot = Path.Combine(_folder, "snapshots", commit);
        HubFile[] missing = [.. files.Where(file => !IsThere(file, snapshot)).DistinctBy(static file => file.Hash)];
        _progress = new HubProgress(0, missing.Sum(static file => file.Size), 0, 0, missing.Length);
        AtomicFile.MakeFolder(Blobs);
        RefuseFullDisk(missing);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_options.Cancellation);
        await Parallel.ForEachAsync(
            missing.OrderByDescending(static file => file.Size),
            new ParallelOptions { MaxDegreeOfParallelism = AtOnce, CancellationToken = stop.Token },
            (file, cancellation) => FetchAsync(connection, commit, file, cancellation)).ConfigureAwait(false);

        // What a reader looks for first comes last, so that a folder that was cut off here is seen to be.
        foreach (var file in files.OrderBy(static file => file.Path.EndsWith("config.json", StringComparison.Ordinal)))
        {
            Link(file, Path.Combine(snapshot, file.Path));
        }

        Refer(commit);
        return new HubSnapshot(_repository.Name, _repository.Revision, commit, snapshot, [.. files.Select(static file => file.Path)], files.Sum(static file => file.Size));
    }

    private static (string Commit, IReadOnlyList<HubFile> Files) Listing(byte[] answer)
    {
        try
        {
            using var document = JsonDocument.Parse(answer);
            var commit = document.RootElement.GetProperty("sha").GetString();
            return commit is { Length: 40 or 64 } && HubFile.IsHash(commit)
                ? (commit, [.. document.RootElement.GetProperty("siblings").EnumerateArray().Select(HubFile.Read)])
                : throw HubFile.Invalid("it names no commit");
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw HubFile.Invalid("it is not the list of files that a hub gives", error);
        }
    }

    /// <summary>Where links can't be made a file lies in the snapshot itself.</summary>
    private bool IsThere(HubFile file, string snapshot) => IsWhole(Path.Combine(Blobs, file.Hash), file) || IsWhole(Path.Combine(snapshot, file.Path), file);

    private static bool IsWhole(string path, HubFile file) => new FileInfo(path) is { Exists: true, LinkTarget: null } info && info.Length == file.Size;

    private async ValueTask FetchAsync(HubConnection connection, string commit, HubFile file, CancellationToken cancellation)
    {
        var blob = Path.Combine(Blobs, file.Hash);
        using (await HoldAsync(file, cancellation).ConfigureAwait(false))
        {
            if (IsWhole(blob, file))
            {
                // Another process brought it meanwhile.
                Report(file.Size, 0, 0);
            }
            else
            {
                var isResumed = true;
                await HubFileDownload.RunAsync(connection, file, _repository.FilePath(commit, file.Path), blob, count =>
                {
                    Report(count, isResumed ? 0 : Math.Max(0, count), 0);
                    isResumed = false;
                }, cancellation).ConfigureAwait(false);
            }
        }

        Report(0, 0, 1);
    }

    /// <summary>Keeps other processes, Python's among them, from fetching the same file: the second finds it there.</summary>
    private async Task<HeldFile> HoldAsync(HubFile file, CancellationToken cancellation)
    {
        var path = Path.Combine(_options.Settings.CacheFolder, ".locks", _repository.FolderName, file.Hash + ".lock");
        AtomicFile.MakeFolder(Path.GetDirectoryName(path)!);
        for (var waits = false; ; waits = true)
        {
            if (HeldFile.TryHold(path, FileMode.OpenOrCreate) is { } held)
            {
                return held;
            }

            if (!waits)
            {
                _options.OnMessage?.Invoke($"Another process is fetching '{file.Path}'; waiting for it.");
            }

            await Task.Delay(s_lookAgain, cancellation).ConfigureAwait(false);
        }
    }

    private void Report(long bytes, long received, int files)
    {
        lock (_gate)
        {
            _progress = _progress with { Bytes = _progress.Bytes + bytes, Received = _progress.Received + received, Files = _progress.Files + files };
            _options.OnProgress?.Invoke(_progress);
        }
    }

    private void RefuseFullDisk(HubFile[] missing)
    {
        var needed = missing.Sum(file => file.Size - (new FileInfo(Path.Combine(Blobs, file.Hash + ".incomplete")) is { Exists: true } part ? Math.Min(part.Length, file.Size) : 0));
        if (needed > 0 && new DriveInfo(Blobs).AvailableFreeSpace is var free && free < needed)
        {
            throw new PeftException("DiskFull", FormattableString.Invariant($"'{_repository.Name}' needs {needed / 1e9:0.0} GB more, and the disk of the hub's cache at '{_options.Settings.CacheFolder}' has {free / 1e9:0.0} GB."))
            {
                Target = _options.Settings.CacheFolder,
                RecommendedAction = "Free some space, or set HF_HOME to a folder on another disk.",
            };
        }
    }

    /// <summary>Puts a file's name into the snapshot.</summary>
    private void Link(HubFile file, string path)
    {
        var blob = Path.Combine(Blobs, file.Hash);
        if (IsWhole(path, file) && !File.Exists(blob))
        {
            return;
        }

        var folder = Path.GetDirectoryName(path)!;
        AtomicFile.MakeFolder(folder);
        var temporary = Path.Combine(folder, $".{file.Hash}.{Path.GetRandomFileName()}");
        try
        {
            if (!Disk.TryTo(() => File.CreateSymbolicLink(temporary, Path.GetRelativePath(folder, blob))))
            {
                File.Copy(blob, temporary);
            }

            Disk.Move(temporary, path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Disk.TryTo(() => File.Delete(temporary));
            throw AtomicFile.WriteError(path, error);
        }
    }

    private void Refer(string commit)
    {
        if (_repository.Revision != commit)
        {
            var reference = Path.Combine(_folder, "refs", _repository.Revision);
            AtomicFile.MakeFolder(Path.GetDirectoryName(reference)!);
            AtomicFile.WriteText(reference, commit);
        }
    }
}
