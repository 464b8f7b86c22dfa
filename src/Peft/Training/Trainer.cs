using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// Trains one adapter of a model, which is the active one afterwards, or all weights of the base; or several adapters side by side, which share passes over the base where they can
/// and end as each would alone. Runs on the calling thread from beginning to end: call it on a thread of its own
/// where the caller must stay responsive. Equal requests give equal results, bit for bit, on the same engine, device and number of threads.
/// </summary>
public sealed class Trainer
{
    private readonly IReadOnlyList<TrainingRequest> _requests;

    /// <summary>Prepares a training.</summary>
    /// <param name="request">What is trained, on what, and where the result goes.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: an option, or a training that is to go on without an output path.</exception>
    public Trainer(TrainingRequest request)
        : this([request])
    {
    }

    /// <summary>Prepares several trainings that run side by side.</summary>
    /// <param name="requests">The trainings: adapters of one model, each another one.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>, or <c>TrainingsUnfit</c>: they can't run side by side.</exception>
    public Trainer(IReadOnlyList<TrainingRequest> requests)
    {
        ArgumentNullException.ThrowIfNull(requests);
        foreach (var request in requests)
        {
            ArgumentNullException.ThrowIfNull(request);
            request.Options.Validate();
            if (request.Resume && request.OutputPath is null)
            {
                throw new PeftException("TrainingOptionInvalid", "Checkpoints to go on from lie under the output path, which wasn't given.")
                {
                    Target = nameof(TrainingRequest.OutputPath),
                    RecommendedAction = "Give the output path of the training to resume.",
                };
            }
        }

        RefuseUnfit(requests);
        _requests = requests;
    }

    /// <summary>Steps that the adapter has learnt from, those of a checkpoint that was taken up included; of several adapters the one that made the most. After an error it says whether anything was learnt.</summary>
    public int StepsMade { get; private set; }

    /// <summary>Runs the training.</summary>
    /// <param name="cancellation">
    /// Ends it between two layers of a pass. The adapter then is as after the last whole step, and where an output path is given
    /// the checkpoint of that step is on the disk. The end of the process cancels it as well, and waits for that.
    /// </param>
    /// <returns>What happened; also on the adapter's <see cref="Adapters.Model.PeftAdapter.TrainingRecord"/>.</returns>
    /// <exception cref="PeftException">
    /// <c>ModelIsMerged</c>, <c>PeftModelBusy</c>, <c>AdapterNotFound</c>, <c>WeightsNotLoaded</c>, <c>TokenOutOfRange</c>, <c>DatasetEmpty</c>, <c>OutputExists</c>, <c>OutputBusy</c>, <c>ResumeModelChanged</c>, <c>ResumeDataChanged</c>,
    /// <c>ResumeOptionsChanged</c>, or <c>TrainingDiverged</c>.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public TrainingRecord Train(CancellationToken cancellation = default) => TrainAll(cancellation)[^1];

    /// <summary>Runs all trainings; as <see cref="Train"/>.</summary>
    /// <param name="cancellation">As there.</param>
    /// <returns>What happened to each.</returns>
    public IReadOnlyList<TrainingRecord> TrainAll(CancellationToken cancellation = default)
    {
        var model = _requests[0].Model;
        using var held = model.Acquire("training");
        using var hold = _requests.All(static request => request.OutputPath is null) ? null : new ExitHold(cancellation);
        TrainedPart[] parts = [.. _requests.Select(request => new TrainedPart(model, request.AdapterName))];
        RefuseUnfit(model);
        foreach (var request in _requests)
        {
            request.Data.RefuseUnfit(model);
            request.EvaluationData?.RefuseUnfit(model);
        }

        var conversion = parts[0].IsBase ? null : Convert(_requests[0]);
        IReadOnlyList<TrainingRecord> records;
        try
        {
            records = RunLoops(parts, hold?.Cancellation ?? cancellation);
        }
        finally
        {
            conversion?.Undo();
            Array.ForEach(parts, static part => part.Release());
        }

        foreach (var (part, record) in parts.Zip(records))
        {
            part.Finish(record);
        }

        return records;
    }

    private TrainingRecord[] RunLoops(TrainedPart[] parts, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        List<TrainingLoop> loops = [];
        TrainingRecord[] records = [];
        try
        {
            foreach (var (part, request) in parts.Zip(_requests))
            {
                loops.Add(new TrainingLoop(request, part, cancellation));
            }

            new Lockstep(loops).Run();
            records = [.. loops.Select(static loop => loop.Record())];
        }
        finally
        {
            StepsMade = loops.Select(static loop => loop.StepsMade).DefaultIfEmpty().Max();
            foreach (var (i, loop) in loops.Index())
            {
                if (loop.StepsMade > 0)
                {
                    loop.Part.Remember(i < records.Length ? records[i] : loop.Record(), loop.Request);
                }

                loop.Dispose();
            }
        }

        return records;
    }

    /// <summary>Puts the frozen weights into float32 where the options ask for it and the model was loaded in another type.</summary>
    private static WeightEdits? Convert(TrainingRequest request) => (request.Options.Precision, request.Model.DataType) switch
    {
        ("bfloat16", not ScalarType.BFloat16) => throw new NotSupportedByPeftException(
            "PrecisionNotSupported", $"'{request.Model.Name}' is loaded in {request.Model.DataType}; training it in BFloat16 is not supported.")
        {
            Target = "precision",
            RecommendedAction = "Import the model in bfloat16 (-DataType) to train in bfloat16, or form products alone in it (-BFloat16, bf16).",
        },
        ("float32", not ScalarType.Float32) => WeightEdits.Convert(request.Model.Base, ScalarType.Float32),
        _ => null,
    };

    private static void RefuseUnfit(IReadOnlyList<TrainingRequest> requests)
    {
        var what = requests.Count < 2 ? null
            : requests.Any(request => request.Model != requests[0].Model) ? "they are on different models"
            : requests.Any(static request => request.AdapterName is null) ? "one of them trains all weights of the base"
            : requests.DistinctBy(static request => request.AdapterName).Count() < requests.Count ? "two of them train the same adapter"
            : requests.DistinctBy(static request => (request.Options.Precision, request.Options.BFloat16Products)).Count() > 1 ? "they compute in different types (precision)"
            : null;
        if (what is not null)
        {
            throw new PeftException("TrainingsUnfit", $"The trainings can't run side by side: {what}.")
            {
                RecommendedAction = "Run them one after another.",
            };
        }
    }

    private static void RefuseUnfit(PeftModel model)
    {
        if (model.IsMerged)
        {
            throw new PeftException(
                "ModelIsMerged", $"'{model.Name}' has adapters merged into its weights ({string.Join(", ", model.MergedAdapters)}) and can't be trained so.")
            {
                Target = model.Name,
                RecommendedAction = "Undo the merge first.",
            };
        }

        if (model.IsStructureOnly)
        {
            throw new PeftException("WeightsNotLoaded", $"'{model.Name}' was imported without weights and can't be trained.")
            {
                Target = model.Name,
                RecommendedAction = "Import it without -StructureOnly.",
            };
        }
    }
}
