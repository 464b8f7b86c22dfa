using Peft.Adapters.Model;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>What the measurements have in common: every row of some data goes through a model once, in batches, without gradients.</summary>
internal static class DataPasses
{
    /// <summary>Makes a batch of each few rows in their order, and has it looked at. The caller holds the model.</summary>
    /// <param name="data">The rows.</param>
    /// <param name="model">The model.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Rows in a pass.</param>
    /// <param name="look">Gets the rows' indices, their batch, and the context of a pass; tensors that it makes are freed behind it.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    public static void Pass(
        this ITrainingData data, PeftModel model, AdapterSelection? selection, int batchSize, Action<int[], TrainingBatch, ForwardContext> look, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        foreach (var rows in Enumerable.Range(0, data.Count).Chunk(batchSize))
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = data.Collate(rows, model.Device);
            look(rows, batch, model.NewPass(batch.In(new ForwardContext { Cancellation = cancellation }), selection));
        }
    }
}
