using System.Collections.Frozen;
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

    /// <summary>What scores of tokens are divided by before probabilities are made of them. Default 1.</summary>
    double Temperature => 1;

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
    /// <param name="making">The step, and what it takes to generate with the model and to compare answers.</param>
    IReadOnlyList<TrainingBatch> MakeBatches(IReadOnlyList<TrainingBatch> batches, BatchMaking making) => batches;

    /// <summary>How rows come in batches, where the objective makes its own batches of them: options in whose place the given ones stand for the plan of the rows alone.</summary>
    /// <param name="options">The training's options.</param>
    TrainingOptions Plan(TrainingOptions options) => options;

    /// <summary>Steps that are made with the same rows before the next ones come. Default 1.</summary>
    int StepsPerBatch => 1;

    /// <summary>Told before the first step.</summary>
    /// <param name="folder">The folder of the training's results; null where nothing is written.</param>
    /// <param name="steps">Steps that were made before.</param>
    /// <param name="say">Takes what the user should know.</param>
    void Begin(string? folder, int steps, Action<string> say)
    {
    }

    /// <summary>What the objective remembers between steps, for a checkpoint. The tensors stay its own.</summary>
    IReadOnlyDictionary<string, Tensor> State() => FrozenDictionary<string, Tensor>.Empty;

    /// <summary>Takes up what a checkpoint held.</summary>
    /// <param name="state">What <see cref="State"/> gave; it doesn't outlive the call.</param>
    void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
    }

    /// <summary>Refuses data whose examples are of another kind.</summary>
    /// <param name="data">The data.</param>
    /// <exception cref="PeftException"><c>ObjectiveDataMismatch</c>.</exception>
    internal void RefuseOther(ITrainingData data)
    {
        if (data.ExampleKind != ExampleKind)
        {
            throw new PeftException("ObjectiveDataMismatch", $"The objective '{Name}' learns from examples of the kind {ExampleKind}; the data holds {data.ExampleKind}.")
            {
                Target = data,
                RecommendedAction = "Choose the objective that belongs to the data, or data that belongs to the objective.",
            };
        }
    }

    /// <summary>The loss of a micro batch.</summary>
    /// <param name="pass">The batch, the model, and what is needed to compute with them.</param>
    /// <returns>A scalar in float32, known to the tape: the sum over the batch's items divided by <see cref="ObjectivePass.Divisor"/>.</returns>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>: the objective doesn't fit the model.</exception>
    /// <exception cref="PeftException"><c>ObjectiveDataMismatch</c>: it doesn't fit the data.</exception>
    Tensor Loss(ObjectivePass pass);
}
