using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Data;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>The loss of each row that a training is evaluated on, by itself: what says between which bounds a mean loss lies.</summary>
internal static class RowLosses
{
    /// <summary>Measures a model on the rows of a training.</summary>
    /// <param name="request">The training, whose evaluation data or split says which rows.</param>
    /// <param name="selection">Who acts.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <returns>A loss for each row; none where nothing is set apart, or rows have no loss of their own.</returns>
    public static double[] Measure(TrainingRequest request, AdapterSelection selection, CancellationToken cancellation)
    {
        var (model, options) = (request.Model, request.Options);
        var (data, rows) = request.EvaluationData is { } given
            ? (given, [.. Enumerable.Range(0, given.Count)])
            : (request.Data, TrainingPlan.Split(request.Data.Count, options, options.EvaluationSplit > 0 ? request.Data.Groups(cancellation) : null).Evaluation);
        if (data.ExampleKind == ExampleKind.Rated)
        {
            return [];
        }

        var objective = request.Objective ?? ObjectiveRegistry.Create(options);
        using var held = model.Acquire("measuring losses");
        using var noGrad = no_grad();
        using var generator = new Generator((ulong)options.Seed, model.Device);
        using var reference = objective.NeedsReference ? new ReferenceModel(ReferenceKind.Base, []) : null;
        var context = new ForwardContext { Selection = selection, Generator = generator, Cancellation = cancellation };
        return
        [
            .. rows.Select(row =>
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                using var metrics = new MetricSums();
                using var batch = data.Collate([row], model.Device);
                return (double)objective.Loss(new ObjectivePass(objective, model, batch, null, context, reference, metrics)).item<float>();
            }),
        ];
    }
}
