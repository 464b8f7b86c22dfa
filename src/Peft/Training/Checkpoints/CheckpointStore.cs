using System.Globalization;

namespace Peft.Training.Checkpoints;

/// <summary>
/// The folder with a training's checkpoints, <c>step-N</c> each. A checkpoint appears whole or not at all:
/// it is written beside under another name and renamed when everything is on the disk.
/// </summary>
internal sealed class CheckpointStore
{
    private const string Prefix = "step-";
    private const string Unfinished = ".unfinished-";

    /// <summary>Wraps a folder, which need not be there yet.</summary>
    public CheckpointStore(string folder)
    {
        Folder = folder;
    }

    /// <summary>The folder.</summary>
    public string Folder { get; }

    /// <summary>The checkpoints there are, newest first.</summary>
    public IReadOnlyList<(int Step, string Folder)> NewestFirst() =>
    [
        .. (Directory.Exists(Folder) ? Directory.EnumerateDirectories(Folder, Prefix + "*") : [])
            .Select(static folder => (Step: StepOf(folder), Folder: folder))
            .Where(static entry => entry.Step >= 0)
            .OrderByDescending(static entry => entry.Step),
    ];

    /// <summary>Writes a checkpoint and drops the oldest ones beyond a limit.</summary>
    /// <param name="step">Steps made.</param>
    /// <param name="limit">How many are kept.</param>
    /// <param name="write">Writes everything into a folder.</param>
    /// <returns>The checkpoint's folder.</returns>
    /// <exception cref="PeftException">What writing throws; the older checkpoints are untouched then.</exception>
    public string Save(int step, int limit, Action<string> write)
    {
        var target = Path.Combine(Folder, Prefix + step.ToString(CultureInfo.InvariantCulture));
        var unfinished = Path.Combine(Folder, Unfinished + Guid.NewGuid().ToString("N"));
        try
        {
            DropUnfinished();
            Directory.CreateDirectory(unfinished);
            write(unfinished);
            if (Directory.Exists(target))
            {
                Directory.Delete(target, recursive: true);
            }

            Directory.Move(unfinished, target);
            foreach (var (_, folder) in NewestFirst().Skip(limit))
            {
                Directory.Delete(folder, recursive: true);
            }
        }
        catch (Exception error)
        {
            Discard(unfinished);
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

    /// <summary>Removes every checkpoint.</summary>
    public void Clear()
    {
        if (Directory.Exists(Folder))
        {
            Directory.Delete(Folder, recursive: true);
        }
    }

    /// <summary>Deletes what could not be finished and keeps silent if even that fails, for an error is already on its way.</summary>
    private static void Discard(string unfinished)
    {
        try
        {
            Directory.Delete(unfinished, recursive: true);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            System.Diagnostics.Trace.TraceWarning($"The unfinished checkpoint {unfinished} could not be deleted: {error.Message}");
        }
    }

    /// <summary>What a killed process left.</summary>
    private void DropUnfinished()
    {
        foreach (var folder in Directory.Exists(Folder) ? Directory.EnumerateDirectories(Folder, Unfinished + "*") : [])
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static int StepOf(string folder) =>
        int.TryParse(Path.GetFileName(folder)[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var step) ? step : -1;
}
