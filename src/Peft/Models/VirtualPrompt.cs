using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// What a prompt method puts in front of every row: vectors in place of tokens (prompt tuning, P-tuning), or keys and values for each
/// layer's attention (prefix tuning). Its tensors are known to the tape, so gradients reach what they were computed from; keys and values
/// are apart from the cache, which keeps those of tokens alone.
/// </summary>
/// <param name="Length">Number of virtual positions.</param>
public sealed record VirtualPrompt(long Length)
{
    /// <summary>[rows · length, width], or [length, width] for all rows alike; null for none.</summary>
    public Tensor? Embeddings { get; init; }

    /// <summary>The same in front of what an encoder-decoder's decoder reads; null for none.</summary>
    public Tensor? DecoderEmbeddings { get; init; }

    /// <summary>How virtual positions count in the loss of a model that continues text; null where they don't.</summary>
    public PromptLoss? Loss { get; init; }

    /// <summary>One pair a layer; null for none.</summary>
    public IReadOnlyList<KeyValuePrefix>? KeyValues { get; init; }

    /// <summary>What layers' queries see beside the row's own positions, through a gate, by the layer's index (LLaMA-Adapter); null for nothing.</summary>
    public IReadOnlyDictionary<int, GatedPrompt>? Gated { get; init; }

    /// <summary>The tensors, in an order that <see cref="With"/> takes them back in.</summary>
    internal IReadOnlyList<Tensor> Tensors =>
    [
        .. new[] { Embeddings, DecoderEmbeddings }.OfType<Tensor>(),
        .. (KeyValues ?? []).SelectMany(static pair => (Tensor[])[pair.Keys, pair.Values]),
        .. GatedInOrder.SelectMany(static entry => (Tensor[])[entry.Value.Vectors, entry.Value.Gate]),
    ];

    private IEnumerable<KeyValuePair<int, GatedPrompt>> GatedInOrder => Gated?.OrderBy(static entry => entry.Key) ?? Enumerable.Empty<KeyValuePair<int, GatedPrompt>>();

    /// <summary>The same prompt with other tensors (a block that is computed again has its own).</summary>
    internal VirtualPrompt With(IReadOnlyList<Tensor> tensors)
    {
        var next = 0;
        return this with
        {
            Embeddings = Embeddings is null ? null : tensors[next++],
            DecoderEmbeddings = DecoderEmbeddings is null ? null : tensors[next++],
            KeyValues = KeyValues is null ? null : [.. KeyValues.Select(_ => new KeyValuePrefix(tensors[next++], tensors[next++]))],
            Gated = Gated is null ? null : GatedInOrder.ToArray().ToDictionary(static entry => entry.Key, _ => new GatedPrompt(tensors[next++], tensors[next++])),
        };
    }
}

/// <summary>Keys and values that stand in front of a layer's own.</summary>
/// <param name="Keys">[rows or 1, key and value heads, length, head size]; not rotated by the layer.</param>
/// <param name="Values">[rows or 1, key and value heads, length, head size].</param>
public sealed record KeyValuePrefix(Tensor Keys, Tensor Values);

/// <summary>Vectors whose keys and values a layer's own projections give, without positions, and what multiplies that they bring.</summary>
/// <param name="Vectors">[length, width].</param>
/// <param name="Gate">[1].</param>
public sealed record GatedPrompt(Tensor Vectors, Tensor Gate);
