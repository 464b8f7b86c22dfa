using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>What a training makes small. Says what data it takes, over what its loss is averaged, and whether it compares with a reference; the loop does the rest.</summary>
public interface IObjective
{
    /// <summary>A stable name, for the log and for checkpoints.</summary>
    string Name { get; }

    /// <summary>What an example of its data is.</summary>
    ExampleKind ExampleKind => ExampleKind.Text;

    /// <summary>Whether it compares the model with a reference: <see cref="ObjectivePass.ReferenceLosses"/>.</summary>
    bool NeedsReference => false;

    /// <summary>
    /// How many items a batch holds. A step's loss is a sum over the items of all its micro batches, divided by their number: labelled tokens by default;
    /// 1 where a batch's own mean is the item, so that micro batches count alike.
    /// </summary>
    /// <param name="batch">The batch.</param>
    long Items(TrainingBatch batch) => batch.TargetCount;

    /// <summary>
    /// The micro batches of an optimiser step: those that the data gave, or what the objective makes of them, such as answers that it samples and rates.
    /// Those that it doesn't pass on are its to dispose.
    /// </summary>
    /// <param name="batches">What the data gave.</param>
    /// <param name="model">The model, to generate with.</param>
    /// <param name="context">A forward pass of what is trained, without a tape, with the training's generator.</param>
    /// <param name="step">The step, counted from 0.</param>
    IReadOnlyList<TrainingBatch> MakeBatches(IReadOnlyList<TrainingBatch> batches, PeftModel model, ForwardContext context, int step) => batches;

    /// <summary>The loss of a micro batch.</summary>
    /// <param name="pass">The batch, the model, and what is needed to compute with them.</param>
    /// <returns>A scalar in float32, known to the tape: the sum over the batch's items divided by <see cref="ObjectivePass.Divisor"/>.</returns>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>: the objective doesn't fit the model.</exception>
    /// <exception cref="PeftException"><c>ObjectiveDataMismatch</c>: it doesn't fit the data.</exception>
    Tensor Loss(ObjectivePass pass);
}
