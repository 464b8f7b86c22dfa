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
    private readonly TrainingRequest request;
    private readonly Adapter adapter;
    private readonly TrainingIdentity identity;
    private readonly CheckpointStore checkpoints;
    private readonly List<string> messages = [];
    private TrainingLog? log;
    private int savedStep = -1;

    /// <summary>Says where the output goes; <see cref="Begin"/> is the first to write.</summary>
    public TrainingOutput(TrainingRequest request, PeftAdapter adapter, string objective)
    {
        this.request = request;
        this.adapter = adapter.Adapter;
        identity = TrainingIdentity.Of(request, adapter, objective);
        Folder = Path.GetFullPath(Path.Combine(request.OutputPath!, request.AdapterName));
        checkpoints = new CheckpointStore(Path.Combine(Folder, "checkpoints"));
    }

    /// <summary>The adapter's folder.</summary>
    public string Folder { get; }

    /// <summary>What the user should know.</summary>
    public IReadOnlyList<string> Messages => messages;

    /// <summary>Goes on from the newest valid checkpoint, if there is one and it is asked for, or prepares an empty folder; and opens the log.</summary>
    /// <returns>The steps made before, and what the log says of them.</returns>
    /// <exception cref="PeftException"><c>OutputExists</c>, <c>ResumeDataChanged</c>, <c>ResumeOptionsChanged</c> or <c>CheckpointMismatch</c>.</exception>
    public (int Steps, List<StepRecord> Records, List<EvaluationRecord> Evaluations) Begin(Optimizer optimizer, Schedule schedule)
    {
        var steps = request.Resume ? LoadNewest(optimizer, schedule) : 0;
        if (steps == 0)
        {
            StartAnew();
        }

        AtomicFile.MakeFolder(Folder);
        (request.Data as TokenizedDataset)?.Template?.Save(Folder);
        var path = Path.Combine(Folder, TrainingLog.FileName);
        var (records, evaluations) = TrainingLog.Read(path, steps);
        log = TrainingLog.Open(path, steps);
        savedStep = steps > 0 ? steps : -1;
        AtomicFile.WriteText(Path.Combine(Folder, TrainingOptions.FileName), request.Options.ToJson() + "\n");
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

        checkpoints.Save(steps, request.Options.CheckpointLimit, folder =>
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
                Say($"The checkpoint '{folder}' is not complete and was passed over.");
                continue;
            }

            identity.RefuseOther(description["identity"] as JsonObject ?? [], folder);
            return TrainingState.Load(folder, description, optimizer, schedule);
        }

        return 0;
    }

    private void StartAnew()
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

        checkpoints.Clear();
    }

    /// <summary>Whether there is anything to lose. What a training left that broke off before its first checkpoint is nothing to one that resumes it.</summary>
    private bool IsUsed() => Directory.Exists(Folder) && Directory.EnumerateFileSystemEntries(Folder).Any(entry => !request.Resume || Path.GetFileName(entry) switch
    {
        TrainingLog.FileName or TrainingOptions.FileName or PromptTemplate.FileName => false,
        _ => entry != checkpoints.Folder || checkpoints.NewestFirst().Count > 0,
    });

    private void Say(string message)
    {
        messages.Add(message);
        request.OnMessage?.Invoke(message);
    }
}
