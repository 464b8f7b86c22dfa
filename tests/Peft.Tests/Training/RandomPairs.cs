using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Pairs of random answers to prompts of two tokens.</summary>
internal sealed class RandomPairs(int count, int vocabulary) : ITrainingData
{
    private readonly RandomRows _chosen = new(count, vocabulary);
    private readonly RandomRows _rejected = new(2 * count, vocabulary);

    public int Count => count;

    public string Fingerprint => "pairs";

    public ExampleKind ExampleKind => ExampleKind.Pair;

    /// <summary>Called before each micro batch with the number of micro batches made before it.</summary>
    public Action<int>? Before
    {
        get => _chosen.Before;
        set => _chosen.Before = value;
    }

    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        using var better = _chosen.Collate(rows, device);
        using var worse = _rejected.Collate([.. rows.Select(row => row + count)], device);
        var width = Math.Max(better.InputIds.size(1), worse.InputIds.size(1));
        return new PairBatch(Both(static batch => batch.InputIds, 0), Both(static batch => batch.Labels, -100))
        {
            AttentionMask = Both(static batch => batch.AttentionMask!, 0),
            TokenCount = better.TokenCount + worse.TokenCount,
            TargetCount = better.TargetCount + worse.TargetCount,
        };

        Tensor Both(Func<TrainingBatch, Tensor> of, long filler) => cat([Filled(of(better), filler), Filled(of(worse), filler)], 0);

        Tensor Filled(Tensor side, long filler) => cat([side, full([side.size(0), width - side.size(1)], filler, ScalarType.Int64)], 1);
    }
}
