using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Tensors;
using Peft.Training.Checkpoints;
using Peft.Training.Data;
using Peft.Training.Optimizers;
using Peft.Training.Reports;
using Peft.Training.Schedules;

namespace Peft.Training;

/// <summary>The folder of one training: the adapter, its options, the log of every step, and the checkpoints.</summary>
internal sealed class TrainingOutput : IDisposable
{
    private readonly Adapter adapter;
    private readonly TrainingOptions options;
    private readonly TrainingIdentity identity;
    private readonly CheckpointStore checkpoints;
    private readonly List<string> messages = [];
    private TrainingLog? log;
    private int savedStep = -1;

    private TrainingOutput(string folder, PeftAdapter adapter, TrainingOptions options, TrainingIdentity identity)
    {
        Folder = folder;
        this.adapter = adapter.Adapter;
        this.options = options;
        this.identity = identity;
        checkpoints = new CheckpointStore(Path.Combine(folder, "checkpoints"));
    }

    /// <summary>The adapter's folder.</summary>
    public string Folder { get; }

    /// <summary>What the user should know.</summary>
    public IReadOnlyList<string> Messages => messages;

    /// <summary>Prepares the folder, and refuses to touch one that is in use unless asked to.</summary>
    /// <exception cref="PeftException"><c>OutputExists</c>.</exception>
    public static TrainingOutput Open(TrainingRequest request, PeftAdapter adapter, TrainingIdentity identity)
    {
        var folder = Path.GetFullPath(Path.Combine(request.OutputPath!, request.AdapterName));
        var isUsed = Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).Any();
        if (isUsed && !request.Resume && !request.Force)
        {
            throw new PeftException("OutputExists", $"'{folder}' exists already and was left as it is.")
            {
                Target = folder,
                RecommendedAction = "Resume that training, replace it with -Force, or choose another output path.",
            };
        }

        Directory.CreateDirectory(folder);
        (request.Data as TokenizedDataset)?.Template?.Save(folder);
        var output = new TrainingOutput(folder, adapter, request.Options, identity);
        if (!request.Resume)
        {
            output.checkpoints.Clear();
        }

        return output;
    }

    /// <summary>Goes on from the newest valid checkpoint, if there is one and it is asked for, and opens the log.</summary>
    /// <returns>The steps made before, and what the log says of them.</returns>
    /// <exception cref="PeftException"><c>ResumeDataChanged</c>, <c>ResumeOptionsChanged</c> or <c>CheckpointMismatch</c>.</exception>
    public (int Steps, List<StepRecord> Records, List<EvaluationRecord> Evaluations) Begin(bool resume, Optimizer optimizer, Schedule schedule)
    {
        var steps = resume ? LoadNewest(optimizer, schedule) : 0;
        var path = Path.Combine(Folder, TrainingLog.FileName);
        var (records, evaluations) = TrainingLog.Read(path, steps);
        log = TrainingLog.Open(path, steps);
        savedStep = steps > 0 ? steps : -1;
        AtomicFile.WriteText(Path.Combine(Folder, "training_options.json"), options.ToJson() + "\n");
        return (steps, records, evaluations);
    }

    /// <summary>Logs a step.</summary>
    public void Write(StepRecord step) => log!.Write(step);

    /// <summary>Logs an evaluation.</summary>
    public void Write(EvaluationRecord evaluation) => log!.Write(evaluation);

    /// <summary>Writes a checkpoint of the steps made, unless there is one already.</summary>
    public void SaveCheckpoint(int steps, Optimizer optimizer, Schedule schedule)
    {
        if (steps == savedStep || steps == 0)
        {
            return;
        }

        checkpoints.Save(steps, options.CheckpointLimit, folder =>
        {
            AdapterFile.Save(adapter, folder, embeddings: null);
            TrainingState.Save(folder, steps, optimizer, schedule, identity);
        });
        savedStep = steps;
    }

    /// <inheritdoc/>
    public void Dispose() => log?.Dispose();

    private int LoadNewest(Optimizer optimizer, Schedule schedule)
    {
        foreach (var (_, folder) in checkpoints.NewestFirst())
        {
            if (TrainingState.ReadDescription(folder) is not { } description)
            {
                messages.Add($"The checkpoint '{folder}' is not complete and was passed over.");
                continue;
            }

            identity.RefuseOther(description["identity"] as JsonObject ?? [], folder);
            return TrainingState.Load(folder, description, optimizer, schedule);
        }

        messages.Add($"There is no checkpoint in '{checkpoints.Folder}'; the training starts anew.");
        return 0;
    }
}
