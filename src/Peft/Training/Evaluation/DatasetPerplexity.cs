using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>How well a model predicts what a training on a data set would learn of it.</summary>
public static class DatasetPerplexity
{
    /// <summary>Measures the mean loss of all labelled tokens, each counted once.</summary>
    /// <param name="model">A causal language model.</param>
    /// <param name="data">The rows.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Rows in a pass.</param>
    /// <param name="onProgress">Sees how many rows are done, and how many there are.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>ModelCannotGenerate</c>, <c>TokenOutOfRange</c> or <c>PeftModelBusy</c>.</exception>
    public static PerplexityResult Measure(
        PeftModel model, ITrainingData data, AdapterSelection? selection = null, int batchSize = 8, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        var network = TextGenerator.RequireNetwork(model);
        data.RefuseUnfit(model);
        using var held = model.Acquire("measuring perplexity");
        var (sum, tokens, done) = (0.0, 0L, 0L);
        data.Pass(model, selection, batchSize, (rows, batch, pass) =>
        {
            sum += network.Loss(network.Forward(batch.InputIds, pass), batch.Labels, divisor: 1, pass).ToDouble();
            tokens += batch.TargetCount;
            onProgress?.Invoke(done += rows.Length, data.Count);
        }, cancellation);

        return new PerplexityResult(Math.Exp(sum / tokens), sum / tokens, (int)tokens);
    }
}
