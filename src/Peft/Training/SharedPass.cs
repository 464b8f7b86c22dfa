using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Training.Data;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>A micro batch of a training in a pass that it shares.</summary>
/// <param name="Step">The step.</param>
/// <param name="Micro">Which of its micro batches.</param>
internal readonly record struct PassShare(OpenStep Step, int Micro)
{
    /// <summary>The rows.</summary>
    public TrainingBatch Batch => Step.Batches[Micro];

    /// <summary>The adapter's name.</summary>
    public string Name => Step.Loop.Part.Name;

    /// <summary>Number of positions, padding among them.</summary>
    public long Count => Batch.InputIds.numel();
}

/// <summary>
/// Micro batches of several trainings in one pass over the base: all rows stand one after another in a single row in which none sees another, each product with the base's
/// weights is formed once, and every adapter acts on its own stretch, drops out with its own masks and has its own loss.
/// </summary>
internal static class SharedPass
{
    /// <summary>
    /// Whether a training can take part: it learns to continue texts by the plain loss, with a method that can act on some rows alone, nothing else is drawn or added, and
    /// two of its micro batches fit into a pass. Larger ones have nothing to share: trained by turns they would only wait for each other.
    /// </summary>
    public static bool CanTake(TrainingRequest request, TrainedPart part, IObjective objective) =>
        objective is CausalLanguageModelling { IsPlain: true }
        && part.Adapter is { SharesPasses: true }
        && !(request.Data.TokenTotal * (double)request.Options.BatchSize / request.Data.Count > StepPasses.MostShared / 2)
        && request is { Data: { ExampleKind: ExampleKind.Text, PadsInFront: false }, Model: { DataType: not ScalarType.Float16, Base: CausalModel network } }
        && !network.Descendants().Any(static module => module is Experts or Dropout { IsUsed: true })
        && !network.Config.Document.Any(static entry => entry.Key.Contains("drop", StringComparison.OrdinalIgnoreCase) && Models.ModelConfig.NumberOf(entry.Value) > 0);

    /// <summary>Adds the gradients of all shares, and gives each its loss.</summary>
    public static void Run(IReadOnlyList<PassShare> shares)
    {
        using var scope = NewDisposeScope();
        using var tape = new Tape();
        var (model, context) = (shares[0].Step.Loop.Request.Model, shares[0].Step.Loop.Context);
        using var joined = Join(shares);
        var selection = AdapterSelection.Of(Spans(shares));
        var pass = model.NewPass(
            joined.In(context with
            {
                Generator = null,
                Generators = shares.ToDictionary(static share => share.Name, static share => share.Step.Loop.GeneratorOf(share.Micro)),
                Tape = tape,
                IsTraining = true,
            }),
            selection);
        var network = (CausalModel)model.Base;
        var each = network.TokenLosses(network.Forward(joined.InputIds, pass), joined.Labels, pass);
        List<(Tensor Loss, Tensor Gradient)> losses = [];
        foreach (var (share, (name, start, count)) in shares.Zip(selection.Spans!))
        {
            // The loss of a position stands at the one before it; the first of a stretch has none.
            var divisor = share.Step.Divisor;
            var loss = tape.Autograd(given => given[0].narrow(1, start, count - 1).sum().div(divisor), [each], []);
            loss = share.Step.Loop.Part.Loss(loss, pass with { Selection = AdapterSelection.Of(name) });
            losses.Add((loss, ones_like(loss)));
        }

        tape.BackwardTo(losses, [], context.Cancellation);
        foreach (var (share, (loss, _)) in shares.Zip(losses))
        {
            share.Step.Losses[share.Micro] = loss.MoveToOuterDisposeScope();
        }
    }

    private static AdapterSpan[] Spans(IReadOnlyList<PassShare> shares)
    {
        long at = 0;
        return [.. shares.Select(share => new AdapterSpan(share.Name, (at += share.Count) - share.Count, share.Count))];
    }

    /// <summary>All rows as one. Padding behind a row is seen by nothing that is learnt.</summary>
    private static TrainingBatch Join(IReadOnlyList<PassShare> shares)
    {
        using var scope = NewDisposeScope();
        TrainingBatch[] batches = [.. shares.Select(static share => share.Batch)];
        return new TrainingBatch(
            cat([.. batches.Select(static batch => batch.InputIds.reshape(1, -1))], 1).MoveToOuterDisposeScope(),
            cat([.. batches.Select(Labels)], 1).MoveToOuterDisposeScope())
        {
            Positions = cat([.. batches.Select(Positions)], 1).MoveToOuterDisposeScope(),
            Packing = [[.. batches.SelectMany(Lengths)]],
            TokenCount = batches.Sum(static batch => batch.TokenCount),
            TargetCount = batches.Sum(static batch => batch.TargetCount),
        };
    }

    private static Tensor Labels(TrainingBatch batch)
    {
        var labels = batch.Labels.clone();
        labels.select(1, 0).fill_(TrainingExample.Ignored);
        return labels.reshape(1, -1);
    }

    private static Tensor Positions(TrainingBatch batch) =>
        (batch.Positions ?? arange(batch.InputIds.size(1), ScalarType.Int64, batch.InputIds.device).expand(batch.InputIds.shape)).reshape(1, -1);

    private static IEnumerable<int> Lengths(TrainingBatch batch)
    {
        var length = (int)batch.InputIds.size(1);
        return batch.Packing is { } packing
            ? packing.SelectMany(row => row.Append(length - row.Sum()).Where(static count => count > 0))
            : Enumerable.Repeat(length, (int)batch.InputIds.size(0));
    }
}
