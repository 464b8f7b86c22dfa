using Peft.Adapters.Model;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>The rows of one micro batch on the model's device. Whoever asked for it disposes it.</summary>
/// <param name="InputIds">Token ids, int64 [rows, length].</param>
/// <param name="Labels">The token to learn at each position, -100 where none is, int64 [rows, length]; position i is learnt from the positions before it.</param>
public sealed record TrainingBatch(Tensor InputIds, Tensor Labels) : IDisposable
{
    /// <summary>1 for tokens, 0 for padding, int64 [rows, length]; null when nothing is padded.</summary>
    public Tensor? AttentionMask { get; init; }

    /// <summary>Position of every token, int64 [rows, length]; null for 0, 1, ….</summary>
    public Tensor? Positions { get; init; }

    /// <summary>In packed rows the lengths of the examples that stand in each row; null when a row is one example.</summary>
    public IReadOnlyList<IReadOnlyList<int>>? Packing { get; init; }

    /// <summary>Number of tokens that aren't padding.</summary>
    public required long TokenCount { get; init; }

    /// <summary>Number of labels that are learnt: those that aren't -100, without the first of each row, which nothing precedes.</summary>
    public required long TargetCount { get; init; }

    /// <inheritdoc/>
    public void Dispose()
    {
        InputIds.Dispose();
        Labels.Dispose();
        AttentionMask?.Dispose();
        Positions?.Dispose();
    }
}

/// <summary>Rows to train or evaluate on. Which rows come when is the trainer's business, how they become tensors the data's.</summary>
public interface ITrainingData
{
    /// <summary>Number of rows.</summary>
    int Count { get; }

    /// <summary>Changes when the rows or what is learnt of them change; a training goes on only from checkpoints with the same one.</summary>
    string Fingerprint { get; }

    /// <summary>Refuses what the model can't take, before anything is learnt.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>TokenOutOfRange</c>, naming the row.</exception>
    void RefuseUnfit(PeftModel model)
    {
    }

    /// <summary>Makes a micro batch.</summary>
    /// <param name="rows">Indices of the rows, in order.</param>
    /// <param name="device">Where its tensors go.</param>
    TrainingBatch Collate(IReadOnlyList<int> rows, Device device);
}
