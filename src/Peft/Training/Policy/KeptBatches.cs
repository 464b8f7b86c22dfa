using System.Globalization;
using static TorchSharp.torch;

namespace Peft.Training.Policy;

/// <summary>Rated answers that several steps learn from, which go into checkpoints between these.</summary>
internal sealed class KeptBatches : IDisposable
{
    private const string Ids = "ids", Labels = "labels", Mask = "mask", Advantages = "advantages", Sampled = "sampled";

    private readonly IReadOnlyList<RatedBatch> _batches;

    private KeptBatches(IReadOnlyList<RatedBatch> batches)
    {
        _batches = batches;
    }

    /// <summary>No answers.</summary>
    public static KeptBatches None { get; } = new([]);

    /// <summary>Whether there are any.</summary>
    public bool Any => _batches.Count > 0;

    /// <summary>Copies of batches.</summary>
    public static KeptBatches Of(IEnumerable<RatedBatch> batches) => new([.. batches.Select(Copy)]);

    /// <summary>Takes up what a checkpoint held. Figures of the answers were logged with the first of their steps, and aren't in it.</summary>
    public static KeptBatches Load(IReadOnlyDictionary<string, Tensor> state)
    {
        List<RatedBatch> batches = [];
        while (state.TryGetValue(Key(batches.Count, Ids), out var ids))
        {
            Tensor? Stored(string name) => state.GetValueOrDefault(Key(batches.Count, name));
            var (labels, mask) = (Stored(Labels)!, Stored(Mask));
            var loaded = new RatedBatch(ids, labels, Stored(Advantages)!)
            {
                AttentionMask = mask,
                SampledLosses = Stored(Sampled),
                TokenCount = mask is null ? ids.numel() : mask.sum().item<long>(),
                TargetCount = labels.narrow(1, 1, labels.size(1) - 1).ne(Data.TrainingExample.Ignored).sum().item<long>(),
            };
            batches.Add(Copy(loaded));
        }

        return new KeptBatches(batches);
    }

    /// <summary>The batches, for a step that disposes them.</summary>
    public IReadOnlyList<RatedBatch> Copies() => [.. _batches.Select(Copy)];

    /// <summary>The tensors by name; they stay this object's.</summary>
    public Dictionary<string, Tensor> State()
    {
        var state = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (var (i, batch) in _batches.Index())
        {
            foreach (var (name, tensor) in ((string, Tensor?)[])[
                (Ids, batch.InputIds), (Labels, batch.Labels), (Mask, batch.AttentionMask), (Advantages, batch.Advantages), (Sampled, batch.SampledLosses)])
            {
                if (tensor is not null)
                {
                    state[Key(i, name)] = tensor;
                }
            }
        }

        return state;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var batch in _batches)
        {
            batch.Dispose();
        }
    }

    private static string Key(int index, string name) => string.Create(CultureInfo.InvariantCulture, $"{index}.{name}");

    private static RatedBatch Copy(RatedBatch batch) => new(Own(batch.InputIds)!, Own(batch.Labels)!, Own(batch.Advantages)!)
    {
        AttentionMask = Own(batch.AttentionMask),
        SampledLosses = Own(batch.SampledLosses),
        TokenCount = batch.TokenCount,
        TargetCount = batch.TargetCount,
        Figures = batch.Figures,
    };

    private static Tensor? Own(Tensor? tensor) => tensor?.clone().DetachFromDisposeScope();
}
