using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>A step of a training between its rows and its gradients.</summary>
/// <param name="loop">The training.</param>
/// <param name="rows">Rows of each micro batch.</param>
/// <param name="batches">Its micro batches.</param>
internal sealed class OpenStep(TrainingLoop loop, IReadOnlyList<IReadOnlyList<int>> rows, IReadOnlyList<TrainingBatch> batches) : IDisposable
{
    /// <summary>The training.</summary>
    public TrainingLoop Loop => loop;

    /// <summary>Rows of each micro batch.</summary>
    public IReadOnlyList<IReadOnlyList<int>> Rows => rows;

    /// <summary>Its micro batches.</summary>
    public IReadOnlyList<TrainingBatch> Batches => batches;

    /// <summary>Tokens of all of them, without padding.</summary>
    public long TokenCount { get; } = batches.Sum(static batch => batch.TokenCount);

    /// <summary>Labels that are learnt of all of them.</summary>
    public long TargetCount { get; } = batches.Sum(static batch => batch.TargetCount);

    /// <summary>What losses are divided by.</summary>
    public long Items { get; } = batches.Sum(loop.Objective.Items);

    /// <summary>The same, as a divisor.</summary>
    public double Divisor => Math.Max(1, Items);

    /// <summary>Losses of the micro batches, in their order, once the passes were made.</summary>
    public Tensor[] Losses { get; } = new Tensor[batches.Count];

    /// <summary>What the objective states beside them.</summary>
    public MetricSums Metrics { get; } = new();

    /// <summary>Frees the rows.</summary>
    public void DisposeBatches()
    {
        foreach (var batch in batches)
        {
            batch.Dispose();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        DisposeBatches();
        Metrics.Dispose();
    }
}
