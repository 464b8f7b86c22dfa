using System.Text.Json.Nodes;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>
/// Qwen3-Next (Qwen Team 2025), from which Qwen3.5 came: the gated delta rule beside attention whose output has a gate, with experts in every
/// layer but those that are named. What a key's head and the heads of values that share it need comes from one layer, side by side.
/// </summary>
internal static class Qwen3Next
{
    public static LlamaTraits Traits { get; } = Qwen35.Dense with
    {
        Part = "",
        Mixer = static (config, layer) => Qwen35.IsRecurrent(config.Source, layer) ? new GatedDeltaNet(config, layer, isJoined: true) : new GatedAttention(config, layer),
        FeedForward = static (config, layer) => Mixture.Qwen(config, layer, Mixture.SharedBlock(config, config.Source.Boolean("norm_topk_prob") ?? true)),
    };

    public static JsonObject Defaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10, "num_experts": 512, "norm_topk_prob": true
        }
        """);
}

/// <summary>Outputs of the two layers in front of the delta rule, which stand by the head of their key: its query, itself, its values, their gates; rates, decays.</summary>
/// <param name="KeyHeads">Number of heads of keys.</param>
/// <param name="ValueHeads">Number of heads of values, as many to each key.</param>
/// <param name="KeySize">Width of a head of keys.</param>
/// <param name="ValueSize">Width of a head of values.</param>
internal sealed record JoinedDelta(long KeyHeads, long ValueHeads, long KeySize, long ValueSize)
{
    private long Values => ValueHeads / KeyHeads * ValueSize;

    /// <summary>All queries, then all keys, then all values.</summary>
    /// <param name="joined">Has the outputs along a dimension.</param>
    /// <param name="dimension">The first or the last (-1).</param>
    public Tensor Mixed(Tensor joined, int dimension) =>
        cat([Part(joined, dimension, 0, KeySize), Part(joined, dimension, KeySize, KeySize), Part(joined, dimension, 2 * KeySize, Values)], dimension);

    /// <summary>All gates.</summary>
    public Tensor Gates(Tensor joined, int dimension) => Part(joined, dimension, (2 * KeySize) + Values, Values);

    /// <summary>All rates, then all decays, [tokens, 2 · heads of values].</summary>
    public Tensor Rates(Tensor joined) => joined.view(joined.size(0), KeyHeads, 2, ValueHeads / KeyHeads).transpose(1, 2).reshape(joined.shape);

    /// <summary>The way back from rows of queries, keys and values, and of gates.</summary>
    public Tensor Join(Tensor mixed, Tensor gates)
    {
        var keys = KeyHeads * KeySize;
        return cat([Heads(mixed, 0, keys), Heads(mixed, keys, keys), Heads(mixed, 2 * keys, ValueHeads * ValueSize), Heads(gates, 0, ValueHeads * ValueSize)], 1).flatten(0, 1);
    }

    private Tensor Heads(Tensor rows, long start, long count) => rows.narrow(0, start, count).reshape([KeyHeads, count / KeyHeads, .. rows.shape[1..]]);

    private Tensor Part(Tensor joined, int dimension, long start, long size)
    {
        var each = 2 * (KeySize + Values);
        return dimension < 0
            ? joined.view(joined.size(0), KeyHeads, each).narrow(2, start, size).reshape(joined.size(0), -1)
            : joined.reshape([KeyHeads, each, .. joined.shape[1..]]).narrow(1, start, size).flatten(0, 1);
    }
}
