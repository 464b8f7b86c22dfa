using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Training.Checkpoints;
using Peft.Training.Data;
using Peft.Training.Optimizers;
using Peft.Training.Reports;
using Peft.Training.Schedules;

namespace Peft.Training;

/// <summary>The folder of one training: the adapter, its options, the log of every step, and the checkpoints.</summary>
internal sealed class TrainingOutput : IDisposable
{
    private const string CheckpointsName = "checkpoints";
    private const string LogBeside = ".training_log.unfinished.jsonl";

    private readonly TrainingRequest request;
    private readonly TrainedPart part;
    private readonly TrainingIdentity identity;
    private readonly CheckpointStore checkpoints;
    private readonly List<string> messages = [];
    private FolderLock? held;
    private TrainingLog? log;
    private Action? onFirstCheckpoint;
    private int savedStep = -1;
    private bool mayPrune;

    /// <summary>Says where the output goes; <see cref="Begin"/> is the first to write.</summary>
    public TrainingOutput(TrainingRequest request, TrainedPart part, string objective)
    {
        this.request = request;
        this.part = part;
        identity = TrainingIdentity.Of(request, part, objective);
        Folder = FolderOf(request.OutputPath!, part.Name);
        checkpoints = new CheckpointStore(Path.Combine(Folder, CheckpointsName), Say);
    }

    /// <summary>The adapter's folder.</summary>
    public string Folder { get; }

    /// <summary>What the user should know.</summary>
    public IReadOnlyList<string> Messages => messages;

    /// <summary>What a training that starts anew into a folder deletes there once its first checkpoint is written, and what it replaces: paths of files and of checkpoints.</summary>
    public static IReadOnlyList<string> Replaced(string outputPath, string adapterName)
    {
        var folder = FolderOf(outputPath, adapterName);
        return
        [
            .. ((string[])[AdapterFile.Stem + ".safetensors", AdapterConfig.FileName, TrainingLog.FileName, TrainingOptions.FileName, PromptTemplate.FileName])
                .Select(name => Path.Combine(folder, name)).Where(File.Exists),
            .. new CheckpointStore(Path.Combine(folder, CheckpointsName)).NewestFirst().Select(static entry => entry.Folder),
        ];
    }

    /// <summary>
    /// Takes the folder for this training alone; goes on from the newest sound checkpoint, if there is one and it is asked for, or makes sure that
    /// nothing is lost; and opens the log. Where the training starts anew in place of another, that one's files stay until the first checkpoint is written.
    /// </summary>
    /// <returns>The steps made before, and what the log says of them.</returns>
    /// <exception cref="PeftException"><c>OutputBusy</c>, <c>OutputExists</c>, <c>ResumeDataChanged</c>, <c>ResumeOptionsChanged</c> or <c>CheckpointMismatch</c>.</exception>
    public (int Steps, List<StepRecord> Records, List<EvaluationRecord> Evaluations) Begin(TrainingLoop loop)
    {
        if (Directory.Exists(checkpoints.Folder))
        {
            Hold();
            checkpoints.Recover();
        }

        var steps = request.Resume ? LoadNewest(loop) : 0;
        if (steps == 0)
        {
            RefuseUsed();
        }

        AtomicFile.MakeFolder(Folder);
        Hold();
        var replaced = steps == 0 ? checkpoints.NewestFirst() : [];
        var path = Path.Combine(Folder, TrainingLog.FileName);
        var (records, evaluations) = TrainingLog.Read(path, steps);
        log = TrainingLog.Open(replaced.Count > 0 ? Path.Combine(Folder, LogBeside) : path, steps, Say);
        savedStep = steps > 0 ? steps : -1;
        onFirstCheckpoint = () =>
        {
            WriteDescription();
            log.Rename(path);
            foreach (var (_, folder) in replaced.Where(entry => entry.Folder != checkpoints.FolderOf(savedStep)))
            {
                checkpoints.Remove(folder);
            }
        };
        if (replaced.Count == 0)
        {
            WriteDescription();
        }

        return (steps, records, evaluations);
    }

    /// <summary>Logs a step. That its loss is a number shows that the weights before it were sound: older checkpoints may go.</summary>
    public void Write(StepRecord step)
    {
        log!.Write(step);
        Prune();
    }

    /// <summary>Logs an evaluation.</summary>
    public void Write(EvaluationRecord evaluation) => log!.Write(evaluation);

    /// <summary>Writes a checkpoint of the steps made, unless there is one already.</summary>
    /// <exception cref="PeftException"><c>TrainingDiverged</c>: the weights are no numbers; or what writing throws.</exception>
    public void SaveCheckpoint(int steps, TrainingLoop loop)
    {
        if (steps == savedStep || steps == 0)
        {
            return;
        }

        RefuseNotFinite(steps, loop.Optimizer);
        log!.Sync();
        checkpoints.Save(steps, folder =>
        {
            part.SaveCheckpoint(folder);
            TrainingState.Save(folder, steps, loop, identity);
        });
        savedStep = steps;
        mayPrune = true;
        onFirstCheckpoint?.Invoke();
        onFirstCheckpoint = null;
    }

    /// <summary>The last checkpoint is written: the older ones beyond the limit may go.</summary>
    public void Finish() => Prune();

    /// <summary>Keeps weights that have diverged from being gone on from, and says from which ones that is possible.</summary>
    /// <param name="steps">Steps made before the one whose loss was no number.</param>
    public void SetAsideDiverged(int steps)
    {
        if (checkpoints.SetAside(steps) is { } aside)
        {
            Say($"The checkpoint of step {steps}, after which the training diverged, was renamed to '{aside}'.");
        }

        if (checkpoints.NewestFirst().FirstOrDefault(static entry => Checksums.Problem(entry.Folder) is null) is { Folder: { } sound })
        {
            Say($"The newest checkpoint from before is '{sound}'; Import-PeftAdapter loads it to train on with a lower learning rate.");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        log?.Dispose();
        Disk.TryTo(() => File.Delete(Path.Combine(Folder, LogBeside)));
        held?.Dispose();
    }

    private static string FolderOf(string outputPath, string adapterName) => Path.GetFullPath(Path.Combine(outputPath, adapterName));

    private static void RefuseNotFinite(int steps, Optimizer optimizer)
    {
        using var scope = TorchSharp.torch.NewDisposeScope();
        if (!optimizer.Parameters.Values.isfinite().all().item<bool>())
        {
            throw TrainingLoop.Diverged(FormattableString.Invariant($"After step {steps} the adapter's weights are no numbers any more"));
        }
    }

    private void Hold()
    {
        if (held is not null)
        {
            return;
        }

        held = FolderLock.Take(checkpoints.Folder, $"trains '{part.Name}'");
        if (!held.Excludes)
        {
            Say($"The file system of '{Folder}' knows no locks: see to it that no other training writes there.");
        }
    }

    private void Prune()
    {
        if (mayPrune)
        {
            checkpoints.Prune(savedStep, request.Options.CheckpointLimit);
            mayPrune = false;
        }
    }

    private void WriteDescription()
    {
        (request.Data as TokenizedDataset)?.Template?.Save(Folder);
        AtomicFile.WriteText(Path.Combine(Folder, TrainingOptions.FileName), request.Options.ToJson() + "\n");
    }

    /// <summary>
    /// The newest sound checkpoint of this training. Those of another may still lie beside it where the process was killed while it took their place.
    /// </summary>
    private int LoadNewest(TrainingLoop loop)
    {
        PeftException? refusal = null;
        foreach (var (_, folder) in checkpoints.NewestFirst())
        {
            if (TrainingState.ReadDescription(folder, out var problem) is not { } description)
            {
                Say($"The checkpoint '{folder}' is damaged or not complete and was passed over: {problem}.");
                continue;
            }

            try
            {
                identity.RefuseOther(description["identity"] as JsonObject ?? [], folder);
            }
            catch (PeftException error)
            {
                refusal ??= error;
                continue;
            }

            return TrainingState.Load(folder, description, loop);
        }

        return refusal is null ? 0 : throw refusal;
    }

    private void RefuseUsed()
    {
        if (!request.Force && IsUsed())
        {
            throw new PeftException("OutputExists", request.Resume
                ? $"'{Folder}' exists already but holds no checkpoint to go on from; it was left as it is."
                : $"'{Folder}' exists already and was left as it is.")
            {
                Target = Folder,
                RecommendedAction = $"{(request.Resume ? "Replace it" : "Resume that training, replace it")} with -Force, or choose another output path.",
            };
        }

        if (request.Resume)
        {
            Say($"There is no checkpoint in '{checkpoints.Folder}'; the training starts anew.");
        }
    }

    /// <summary>Whether there is anything to lose. What a training left that broke off before its first checkpoint is nothing to one that resumes it.</summary>
    private bool IsUsed() => Directory.Exists(Folder) && Directory.EnumerateFileSystemEntries(Folder).Any(entry => Path.GetFileName(entry) switch
    {
        TrainingLog.FileName or TrainingOptions.FileName or PromptTemplate.FileName => !request.Resume,
        CheckpointsName => request.Resume
            ? checkpoints.NewestFirst().Count > 0
            : Directory.EnumerateFileSystemEntries(entry).Any(static inside => !FolderLock.FileNames.Contains(Path.GetFileName(inside))),
        LogBeside => false,
        var name => !AtomicFile.IsTemporary(name),
    });

    private void Say(string message)
    {
        messages.Add(message);
        try
        {
            request.OnMessage?.Invoke(message);
        }
        catch (OperationCanceledException)
        {
            // Whoever listened has gone; what is being written is written all the same.
        }
    }
}
