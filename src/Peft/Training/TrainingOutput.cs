using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Asking;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Files;
using Peft.Training.Checkpoints;
using Peft.Training.Diffusion;
using Peft.Training.Optimizers;
using Peft.Training.Reports;
using Peft.Training.Schedules;

namespace Peft.Training;

/// <summary>The folder of one training: the adapter, its options, the log of every step, and the checkpoints.</summary>
internal sealed class TrainingOutput : IDisposable
{
    private const string CheckpointsName = CheckpointStore.FolderName;
    private const string LogBeside = ".training_log.unfinished.jsonl";

    private readonly TrainingRequest _request;
    private readonly TrainedPart _part;
    private readonly TrainingRun _run;
    private readonly TrainingIdentity _identity;
    private readonly CheckpointStore _checkpoints;
    private readonly List<string> _messages = [];
    private FolderLock? _held;
    private TrainingLog? _log;
    private Action? _onFirstCheckpoint;
    private ComputeChoice? _compute;
    private int _savedStep = -1;
    private bool _mayPrune;

    // Not before the first checkpoint, where the options of another training lie there.
    private bool _describes;

    /// <summary>Says where the output goes; <see cref="Begin"/> is the first to write.</summary>
    public TrainingOutput(TrainingRequest request, TrainedPart part, string objective, TrainingRun run)
    {
        _run = run;
        _request = request;
        _part = part;
        _identity = TrainingIdentity.Of(request, part, objective);
        Folder = FolderOf(request.OutputPath!, part.Name);
        _checkpoints = new CheckpointStore(Path.Combine(Folder, CheckpointsName), Say);
    }

    /// <summary>The adapter's folder.</summary>
    public string Folder { get; }

    /// <summary>The step whose checkpoint stays whatever the limit is; null for none.</summary>
    public int? BestStep { get; set; }

    /// <summary>The checkpoint of a step.</summary>
    public string CheckpointOf(int step) => _checkpoints.FolderOf(step);

    /// <summary>What the user should know.</summary>
    public IReadOnlyList<string> Messages => _messages;

    /// <summary>What a training that starts anew into a folder deletes there once its first checkpoint is written, and what it replaces: paths of files and of checkpoints.</summary>
    public static IReadOnlyList<string> Replaced(string outputPath, string adapterName)
    {
        var folder = FolderOf(outputPath, adapterName);
        return
        [
            .. ((string[])[AdapterFile.Stem + ".safetensors", AdapterConfig.FileName, TrainingLog.FileName, TrainingOptions.FileName, TrainingRun.FileName, PromptForm.FileName])
                .Select(name => Path.Combine(folder, name)).Where(File.Exists),
            .. new CheckpointStore(Path.Combine(folder, CheckpointsName)).NewestFirst().Select(static entry => entry.Folder),
        ];
    }

    /// <summary>
    /// Takes the folder for this training alone; goes on from the newest sound checkpoint, if there is one and it is asked for, or makes sure that
    /// nothing is lost; and opens the log. Where the training starts anew in place of another, that one's files stay until the first checkpoint is written.
    /// </summary>
    /// <returns>The steps made before, what the log says of them, and what the machine had decided for them.</returns>
    /// <exception cref="PeftException"><c>OutputBusy</c>, <c>OutputExists</c>, <c>ResumeDataChanged</c>, <c>ResumeOptionsChanged</c> or <c>CheckpointMismatch</c>.</exception>
    public (int Steps, List<StepRecord> Records, List<EvaluationRecord> Evaluations, ComputeChoice? Before) Begin(TrainingLoop loop)
    {
        if (Directory.Exists(_checkpoints.Folder))
        {
            Hold();
            _checkpoints.Recover();
        }

        var (steps, before) = _request.Resume ? LoadNewest(loop) : (0, null);
        if (steps == 0)
        {
            RefuseUsed();
        }

        AtomicFile.MakeFolder(Folder);
        Hold();
        var replaced = steps == 0 ? _checkpoints.NewestFirst() : [];
        var pictures = steps == 0 ? SamplePictures.Before(Folder) : [];
        var path = Path.Combine(Folder, TrainingLog.FileName);
        var (records, evaluations) = TrainingLog.Read(path, steps);
        _log = TrainingLog.Open(replaced.Count > 0 ? Path.Combine(Folder, LogBeside) : path, steps, Say);
        _savedStep = steps > 0 ? steps : -1;
        _onFirstCheckpoint = () =>
        {
            _describes = true;
            WriteDescription();
            _log.Rename(path);
            SamplePictures.Remove(pictures);
            foreach (var (_, folder) in replaced.Where(entry => entry.Folder != _checkpoints.FolderOf(_savedStep)))
            {
                _checkpoints.Remove(folder);
            }
        };
        _describes = replaced.Count == 0;
        return (steps, records, evaluations, before);
    }

    /// <summary>Writes down what the machine decided; to be called before the first step, and when it decides otherwise.</summary>
    public void Keep(ComputeChoice compute)
    {
        _compute = compute;
        if (_describes)
        {
            WriteDescription();
        }
    }

    /// <summary>Logs a step. That its loss is a number shows that the weights before it were sound: older checkpoints may go.</summary>
    public void Write(StepRecord step)
    {
        _log!.Write(step);
        Prune();
    }

    /// <summary>Logs an evaluation.</summary>
    public void Write(EvaluationRecord evaluation) => _log!.Write(evaluation);

    /// <summary>Writes a checkpoint of the steps made, unless there is one already.</summary>
    /// <exception cref="PeftException"><c>TrainingDiverged</c>: the weights are no numbers; or what writing throws.</exception>
    public void SaveCheckpoint(int steps, TrainingLoop loop)
    {
        if (steps == _savedStep || steps == 0)
        {
            return;
        }

        RefuseNotFinite(steps, loop.Optimizer);
        _log!.Sync();
        _checkpoints.Save(steps, folder =>
        {
            TorchSharp.torch.Tensor? averaged = null;
            using (var evaluating = loop.Optimizer.Evaluating())
            {
                _part.SaveCheckpoint(folder);
                averaged = evaluating is null ? null : loop.Optimizer.Parameters.Values.clone();
            }

            using var own = averaged;
            TrainingState.Save(folder, steps, loop, _identity, averaged);
        });
        _savedStep = steps;
        _mayPrune = true;
        _onFirstCheckpoint?.Invoke();
        _onFirstCheckpoint = null;
    }

    /// <summary>The last checkpoint is written: the older ones beyond the limit may go.</summary>
    public void Finish() => Prune();

    /// <summary>Keeps weights that have diverged from being gone on from, and says from which ones that is possible.</summary>
    /// <param name="steps">Steps made before the one whose loss was no number.</param>
    public void SetAsideDiverged(int steps)
    {
        if (_checkpoints.SetAside(steps) is { } aside)
        {
            Say($"The checkpoint of step {steps}, after which the training diverged, was renamed to '{aside}'.");
        }

        if (_checkpoints.NewestFirst().FirstOrDefault(static entry => Checksums.Problem(entry.Folder) is null) is { Folder: { } sound })
        {
            Say($"The newest checkpoint from before is '{sound}'; Import-PeftAdapter loads it to train on with a lower learning rate.");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _log?.Dispose();
        Disk.TryTo(() => File.Delete(Path.Combine(Folder, LogBeside)));
        _held?.Dispose();
    }

    private static string FolderOf(string outputPath, string adapterName) => Path.GetFullPath(Path.Combine(outputPath, adapterName));

    private static void RefuseNotFinite(int steps, Optimizer optimizer)
    {
        using var scope = TorchSharp.torch.NewDisposeScope();
        if (!optimizer.Parameters.Values.isfinite().all().item<bool>())
        {
            throw Divergence.Error(FormattableString.Invariant($"After step {steps} the adapter's weights are no numbers any more: the training has diverged."));
        }
    }

    private void Hold()
    {
        if (_held is not null)
        {
            return;
        }

        _held = FolderLock.Take(_checkpoints.Folder, $"trains '{_part.Name}'");
        if (!_held.Excludes)
        {
            Say($"The file system of '{Folder}' knows no locks: see to it that no other training writes there.");
        }
    }

    private void Prune()
    {
        if (_mayPrune)
        {
            _checkpoints.Prune(_savedStep, _request.Options.CheckpointLimit, BestStep);
            _mayPrune = false;
        }
    }

    private void WriteDescription()
    {
        _request.Data.Form?.Save(Folder);
        _run.Save(Folder);
        AtomicFile.WriteText(Path.Combine(Folder, TrainingOptions.FileName), (_request.Options with { Compute = _compute }).ToJson() + "\n");
    }

    /// <summary>
    /// The newest sound checkpoint of this training. Those of another may still lie beside it where the process was killed while it took their place.
    /// </summary>
    private (int Steps, ComputeChoice? Before) LoadNewest(TrainingLoop loop)
    {
        PeftException? refusal = null;
        foreach (var (_, folder) in _checkpoints.NewestFirst())
        {
            if (TrainingState.ReadDescription(folder, out var problem) is not { } description)
            {
                Say($"The checkpoint '{folder}' is damaged or not complete and was passed over: {problem}.");
                continue;
            }

            try
            {
                _identity.RefuseOther(description["identity"] as JsonObject ?? [], folder);
            }
            catch (PeftException error)
            {
                refusal ??= error;
                continue;
            }

            if (_identity.OtherLength(description["identity"] as JsonObject ?? []) is { } other)
            {
                Say($"The training was planned to another length before ({other}); the learning rate follows the new plan from here on.");
            }

            return (TrainingState.Load(folder, description, loop), ComputeChoice.FromJson(description["compute"]));
        }

        return refusal is null ? (0, null) : throw refusal;
    }

    private void RefuseUsed()
    {
        if (!_request.Force && IsUsed())
        {
            throw new PeftException("OutputExists", _request.Resume
                ? $"'{Folder}' exists already but holds no checkpoint to go on from; it was left as it is."
                : $"'{Folder}' exists already and was left as it is.")
            {
                Target = Folder,
                RecommendedAction = $"{(_request.Resume ? "Replace it" : "Resume that training, replace it")} with -Force, or choose another output path.",
            };
        }

        if (_request.Resume)
        {
            Say($"There is no checkpoint in '{_checkpoints.Folder}'; the training starts anew.");
        }
    }

    /// <summary>Whether there is anything to lose. What a training left that broke off before its first checkpoint is nothing to one that resumes it.</summary>
    private bool IsUsed() => Directory.Exists(Folder) && Directory.EnumerateFileSystemEntries(Folder).Any(entry => Path.GetFileName(entry) switch
    {
        TrainingLog.FileName or TrainingOptions.FileName or PromptForm.FileName => !_request.Resume,
        CheckpointsName => _request.Resume
            ? _checkpoints.NewestFirst().Count > 0
            : Directory.EnumerateFileSystemEntries(entry).Any(static inside => !FolderLock.FileNames.Contains(Path.GetFileName(inside))),
        LogBeside => false,
        var name => !AtomicFile.IsTemporary(name),
    });

    /// <summary>Tells the user something, now and in the record.</summary>
    public void Say(string message)
    {
        _messages.Add(message);
        try
        {
            _request.OnMessage?.Invoke(message);
        }
        catch (OperationCanceledException)
        {
            // Whoever listened has gone; what is being written is written all the same.
        }
    }
}
