using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>What a training makes small.</summary>
public interface IObjective
{
    /// <summary>A stable name, for the log and for checkpoints.</summary>
    string Name { get; }

    /// <summary>The loss of a micro batch.</summary>
    /// <param name="model">The base model; who acts on it is said by the context.</param>
    /// <param name="batch">The rows.</param>
    /// <param name="divisor">What sums are divided by: the items of the whole optimiser step, so that its micro losses add up; null for this batch's own.</param>
    /// <param name="context">The forward pass, with the batch's masks and positions, and with a tape in training.</param>
    /// <returns>A scalar in float32, known to the tape.</returns>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>: the objective doesn't fit the model.</exception>
    Tensor Loss(PretrainedModel model, TrainingBatch batch, double? divisor, ForwardContext context);
}
