using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Data;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training.Reports;

/// <summary>An example with the loss that a trained adapter has on it.</summary>
/// <param name="Loss">The loss of the example alone.</param>
/// <param name="Place">Where its row stands.</param>
/// <param name="Segments">Its text, split where loss begins and ends.</param>
public sealed record HardExample(double Loss, string Place, IReadOnlyList<ExampleSegment> Segments)
{
    /// <summary>Finds the examples with the highest loss.</summary>
    /// <param name="adapter">The adapter, which acts alone.</param>
    /// <param name="data">The data set.</param>
    /// <param name="options">What the adapter was trained with.</param>
    /// <param name="count">How many to give.</param>
    /// <param name="limit">How many to look at: of more, some spread evenly over the data set.</param>
    /// <param name="onProgress">Sees how many are done, and how many there are.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException">As <see cref="TrainingDataset.Tokenize"/>; or the model is held by another.</exception>
    public static IReadOnlyList<HardExample> Find(
        PeftAdapter adapter, TrainingDataset data, TrainingOptions options, int count = 10, int limit = 500, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(options);
        var model = adapter.Model;
        var step = Math.Max(1, data.Count / Math.Max(1, limit));
        var some = data.WithRows(Enumerable.Range(0, data.Count).Where(row => row % step == 0).Take(limit));
        var objective = ObjectiveRegistry.Create(options);
        var tokenized = some.Tokenize(model.RequiredTokenizer, TokenizationOptions.Of(options with { Packing = PackingStrategy.None }, model), cancellation: cancellation);
        if (objective.NeedsReference)
        {
            // The loss is what the adapter was, and that is gone.
            return [];
        }

        using var held = model.Acquire("looking for hard examples");
        using var noGrad = no_grad();
        var context = new ForwardContext { Selection = AdapterSelection.Of(adapter.Name), Cancellation = cancellation };
        var losses = new double[tokenized.Count];
        for (var row = 0; row < losses.Length; row++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = tokenized.Collate([row], model.Device);
            using var metrics = new MetricSums();
            losses[row] = objective.Loss(new ObjectivePass(objective, model, batch, null, context, null, metrics)).item<float>();
            onProgress?.Invoke(row + 1, losses.Length);
        }

        return
        [
            .. Enumerable.Range(0, losses.Length).OrderByDescending(row => losses[row]).Take(count)
                .Select(row => new HardExample(losses[row], tokenized.Examples[row].Row.Place, tokenized.Examples[row].Segments(model.RequiredTokenizer))),
        ];
    }
}
