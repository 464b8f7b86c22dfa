using System.Globalization;
using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Files;

namespace Peft.Training.Checkpoints;

/// <summary>
/// The folder with a training's checkpoints, <c>step-N</c> each. A checkpoint appears whole or not at all:
/// it is written beside under another name and renamed when everything is on the disk. What is deleted is only what a training wrote.
/// </summary>
internal sealed class CheckpointStore
{
    private const string Prefix = "step-";
    private const string Aside = ".unfinished-";
    private const string DivergedPrefix = "diverged-";

    /// <summary>All that a checkpoint holds: a folder with anything else in it has become somebody's own.</summary>
    public static IReadOnlyList<string> Files { get; } =
    [
        AdapterFile.Stem + ".safetensors", AdapterConfig.FileName, TrainingState.TensorFileName, TrainingState.FileName, Checksums.FileName,
    ];

    /// <summary>Name of the folder in an adapter's.</summary>
    public const string FolderName = "checkpoints";

    private readonly Action<string> _say;

    /// <summary>Wraps a folder, which need not be there yet.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="say">Told what could not be tidied up.</param>
    public CheckpointStore(string folder, Action<string>? say = null)
    {
        Folder = folder;
        _say = say ?? (static _ => { });
    }

    /// <summary>The folder.</summary>
    public string Folder { get; }

    /// <summary>The checkpoints there are, newest first.</summary>
    public IReadOnlyList<(int Step, string Folder)> NewestFirst() =>
    [
        .. (Directory.Exists(Folder) ? Directory.GetDirectories(Folder, Prefix + "*") : [])
            .Select(static folder => (Step: StepOf(folder), Folder: folder))
            .Where(static entry => entry.Step >= 0)
            .OrderByDescending(static entry => entry.Step),
    ];

    /// <summary>The folder of the training that a checkpoint is of, and the checkpoint's step; null for any other folder.</summary>
    public static (string Training, int Step)? TrainingOf(string folder)
    {
        var whole = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        return Path.GetDirectoryName(whole) is { } store && Path.GetFileName(store) == FolderName && Path.GetFileName(whole).StartsWith(Prefix, StringComparison.Ordinal) && StepOf(whole) is >= 0 and var step
            ? (Path.GetDirectoryName(store)!, step)
            : null;
    }

    /// <summary>Writes a checkpoint in place of one with this number.</summary>
    /// <param name="step">Steps made.</param>
    /// <param name="write">Writes everything into a folder.</param>
    /// <returns>The checkpoint's folder.</returns>
    /// <exception cref="PeftException">What writing throws, or <c>CheckpointWriteFailed</c>; the older checkpoints are untouched then.</exception>
    public string Save(int step, Action<string> write)
    {
        var target = FolderOf(step);
        var unfinished = Path.Combine(Folder, Aside + Guid.NewGuid().ToString("N"));
        try
        {
            DropUnfinished();
            AtomicFile.MakeFolder(Folder);
            Directory.CreateDirectory(unfinished);
            write(unfinished);
            Checksums.Write(unfinished);
            Disk.SyncFolder(unfinished);
            if (Directory.Exists(target))
            {
                MakeRoom(target);
            }

            Disk.MoveFolder(unfinished, target);
            Disk.SyncFolder(Folder);
            DropUnfinished();
        }
        catch (Exception error)
        {
            Disk.TryTo(() => Delete(unfinished));
            if (error is not (IOException or UnauthorizedAccessException))
            {
                throw;
            }

            throw new PeftException("CheckpointWriteFailed", $"The checkpoint '{target}' could not be written: {error.Message}", error)
            {
                Target = target,
                RecommendedAction = "Check that the disk has space and that the folder can be written to; earlier checkpoints are untouched.",
            };
        }

        return target;
    }

    /// <summary>
    /// Drops checkpoints beyond a limit. Those of later steps than the newest one of this training are damaged or of another, so they go
    /// first, and the newest one never.
    /// </summary>
    /// <param name="newest">The step of the newest one.</param>
    /// <param name="limit">How many are kept.</param>
    /// <param name="best">The step of one that stays beside them; null for none.</param>
    public void Prune(int newest, int limit, int? best = null)
    {
        var kept = NewestFirst().Where(entry => entry.Step != best || entry.Step == newest).OrderByDescending(entry => entry.Step <= newest).ThenByDescending(static entry => entry.Step);
        foreach (var (_, folder) in kept.Skip(Math.Max(1, limit)))
        {
            Remove(folder);
        }
    }

    /// <summary>Takes a checkpoint out of those that are gone on from: its weights make the next step's loss no number.</summary>
    /// <returns>The folder's new name, or null where there was none.</returns>
    public string? SetAside(int step)
    {
        var target = FolderOf(step);
        var aside = Path.Combine(Folder, DivergedPrefix + step.ToString(CultureInfo.InvariantCulture));
        return Directory.Exists(target) && Disk.TryTo(() =>
        {
            if (Directory.Exists(aside))
            {
                Delete(aside);
            }

            Disk.MoveFolder(target, aside);
        })
            ? aside
            : null;
    }

    /// <summary>Finishes what a killed process had whole on the disk but not yet under its name.</summary>
    public void Recover()
    {
        foreach (var folder in Directory.GetDirectories(Folder, Aside + "*"))
        {
            if (TrainingState.ReadDescription(folder, out _) is { } description && FolderOf((int)description["step"]!) is var target && !Directory.Exists(target))
            {
                Disk.TryTo(() => Disk.MoveFolder(folder, target));
            }
        }
    }

    /// <summary>Deletes a checkpoint, and says so where it can't be or isn't one.</summary>
    public void Remove(string folder)
    {
        if (!IsOurs(folder))
        {
            _say($"'{folder}' holds more than a checkpoint does and was left as it is.");
        }
        else if (!Disk.TryTo(() => Disk.DeleteFolder(folder)) && Directory.Exists(folder))
        {
            _say($"The old checkpoint '{folder}' could not be deleted; delete it by hand.");
        }
    }

    /// <summary>The folder of a checkpoint.</summary>
    public string FolderOf(int step) => Path.Combine(Folder, Prefix + step.ToString(CultureInfo.InvariantCulture));

    /// <summary>A checkpoint of the same step is damaged or another training's. Where there is more in it, that is kept.</summary>
    private void MakeRoom(string target)
    {
        var isOurs = IsOurs(target);
        var elsewhere = isOurs ? Path.Combine(Folder, Aside + Guid.NewGuid().ToString("N")) : $"{target}.kept-{Guid.NewGuid():N}";
        Disk.MoveFolder(target, elsewhere);
        if (!isOurs)
        {
            _say($"'{target}' holds more than a checkpoint does and was renamed to '{elsewhere}'.");
        }
    }

    private static bool IsOurs(string folder) => !Directory.Exists(folder) || Directory.GetFileSystemEntries(folder).All(static entry => Files.Contains(Path.GetFileName(entry)));

    private static void Delete(string folder)
    {
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>What a killed process left, or was replaced.</summary>
    private void DropUnfinished()
    {
        foreach (var folder in Directory.Exists(Folder) ? Directory.GetDirectories(Folder, Aside + "*") : [])
        {
            Disk.TryTo(() => Delete(folder));
        }
    }

    private static int StepOf(string folder) =>
        int.TryParse(Path.GetFileName(folder)[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var step) ? step : -1;
}
