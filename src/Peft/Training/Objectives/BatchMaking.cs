using Peft.Adapters.Model;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>What an objective makes the batches of a step with.</summary>
public sealed class BatchMaking
{
    private readonly IObjective _objective;
    private readonly ReferenceModel? _reference;

    internal BatchMaking(IObjective objective, PeftModel model, ForwardContext context, ReferenceModel? reference, int step)
    {
        (_objective, Model, Context, _reference, Step) = (objective, model, context, reference, step);
    }

    /// <summary>The model, to generate with.</summary>
    public PeftModel Model { get; }

    /// <summary>A forward pass of what is trained, without a tape, with the training's generator.</summary>
    public ForwardContext Context { get; }

    /// <summary>The step, counted from 0; in an evaluation the steps made.</summary>
    public int Step { get; }

    /// <summary>Whether the batches are measured and not learnt.</summary>
    public bool IsEvaluation { get; init; }

    /// <summary>Negative log-likelihood of every labelled token under the model as it is, without dropout.</summary>
    /// <param name="batch">The rows.</param>
    /// <returns>float32 [rows, positions - 1]; 0 where nothing is labelled.</returns>
    public Tensor Losses(TrainingBatch batch) => Of(batch, static pass => pass.ConstantLosses(pass.Batch));

    /// <summary>The same under the reference, where the objective needs one.</summary>
    /// <param name="batch">The rows.</param>
    public Tensor ReferenceLosses(TrainingBatch batch) => Of(batch, static pass => pass.ReferenceLosses());

    private Tensor Of(TrainingBatch batch, Func<ObjectivePass, Tensor> losses)
    {
        using var scope = NewDisposeScope();
        using var metrics = new MetricSums();
        return losses(new ObjectivePass(_objective, Model, batch, null, Context, _reference, metrics)).MoveToOuterDisposeScope();
    }
}
