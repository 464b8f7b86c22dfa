using Peft.Files;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// Trains one adapter of a model, which is the active one afterwards, or all weights of the base. Runs on the calling thread from beginning to end: call it on a thread of its own
/// where the caller must stay responsive. Equal requests give equal results, bit for bit, on the same engine, device and number of threads.
/// </summary>
public sealed class Trainer
{
    private readonly TrainingRequest _request;

    /// <summary>Prepares a training.</summary>
    /// <param name="request">What is trained, on what, and where the result goes.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: an option, or a training that is to go on without an output path.</exception>
    public Trainer(TrainingRequest request)
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

        _request = request;
    }

    /// <summary>Steps that the adapter has learnt from, those of a checkpoint that was taken up included. After an error it says whether anything was learnt.</summary>
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
    public TrainingRecord Train(CancellationToken cancellation = default)
    {
        var model = _request.Model;
        using var held = model.Acquire("training");
        using var hold = _request.OutputPath is null ? null : new ExitHold(cancellation);
        var part = new TrainedPart(model, _request.AdapterName);
        RefuseUnfit();
        _request.Data.RefuseUnfit(model);
        _request.EvaluationData?.RefuseUnfit(model);
        var conversion = part.IsBase ? null : Convert();
        TrainingRecord record;
        try
        {
            record = RunLoop(part, hold?.Cancellation ?? cancellation);
        }
        finally
        {
            conversion?.Undo();
            part.Release();
        }

        part.Finish(record);
        return record;
    }

    private TrainingRecord RunLoop(TrainedPart part, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var loop = new TrainingLoop(_request, part, cancellation);
        TrainingRecord? record = null;
        try
        {
            return record = loop.Run();
        }
        finally
        {
            StepsMade = loop.StepsMade;
            if (StepsMade > 0)
            {
                part.Remember(record ?? loop.Record(), _request);
            }
        }
    }

    /// <summary>Puts the frozen weights into float32 where the options ask for it and the model was loaded in another type.</summary>
    private WeightEdits? Convert() => (_request.Options.Precision, _request.Model.DataType) switch
    {
        ("bfloat16", not ScalarType.BFloat16) => throw new NotSupportedByPeftException(
            "PrecisionNotSupported", $"'{_request.Model.Name}' is loaded in {_request.Model.DataType}; training it in BFloat16 is not supported.")
        {
            Target = "precision",
            RecommendedAction = "Import the model in bfloat16 to train in bfloat16.",
        },
        ("float32", not ScalarType.Float32) => WeightEdits.Convert(_request.Model.Base, ScalarType.Float32),
        _ => null,
    };

    private void RefuseUnfit()
    {
        var model = _request.Model;
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
