using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>How a sparse block is built.</summary>
/// <param name="Experts">Number of experts.</param>
/// <param name="InnerSize">Width inside an expert.</param>
/// <param name="Rule">How the router chooses.</param>
internal sealed record SparseBlock(long Experts, long InnerSize, RouterRule Rule)
{
    /// <summary>Ends the block's class name.</summary>
    public string ClassSuffix { get; init; } = "SparseMoeBlock";

    /// <summary>Name of the router.</summary>
    public string Router { get; init; } = "gate";

    /// <summary>Whether the experts stand before the router in the tree.</summary>
    public bool ListsExpertsFirst { get; init; }

    /// <summary>Whether the experts' activation stands in the tree.</summary>
    public bool ListsActivation { get; init; } = true;

    /// <summary>Name of a bias that chooses experts but does not weigh them; null for none.</summary>
    public string? Correction { get; init; }

    /// <summary>Whether the block has that bias, not its router.</summary>
    public bool HoldsCorrection { get; init; }

    /// <summary>Makes the expert that every token visits; null for none.</summary>
    public Func<LlamaMLP>? Shared { get; init; }

    /// <summary>Name of that expert.</summary>
    public string SharedName { get; init; } = "shared_expert";

    /// <summary>Whether that expert has a gate of its own (Qwen2-MoE).</summary>
    public bool GatesShared { get; init; }

    /// <summary>Makes experts of another kind; null for gated MLPs.</summary>
    public Func<Experts>? MakeExperts { get; init; }
}

/// <summary>Experts that a router chooses for each token (Jiang et al. 2024), beside a shared one where there is one.</summary>
internal sealed class SparseMoeBlock : FeedForward
{
    private readonly Router _router;
    private readonly Experts _experts;
    private readonly LlamaMLP? _shared;
    private readonly Linear? _sharedGate;
    private readonly Parameter? _correction;
    private readonly long _chosen, _width, _innerSize;

    public SparseMoeBlock(string stem, long width, string activation, SparseBlock block)
        : base(stem + block.ClassSuffix)
    {
        _router = new Router(
            block.Experts,
            width,
            block.Rule,
            stem + (block.ClassSuffix == "MoE" && block.Correction is not null ? "TopkRouter" : "TopKRouter"),
            hasBias: block.MakeExperts is not null,
            block.HoldsCorrection ? null : block.Correction);
        _experts = block.MakeExperts?.Invoke()
            ?? new Experts(new ExpertSizes(block.Experts, width, block.InnerSize), stem + "Experts", new Activation(activation), block.ListsActivation);
        (_chosen, _width, _innerSize) = (block.Rule.Chosen, width, block.InnerSize);
        _correction = block.HoldsCorrection && block.Correction is { } name ? AddBuffer(name, [block.Experts]) : null;
        if (block.ListsExpertsFirst)
        {
            Add("experts", _experts);
        }

        Add(block.Router, _router);
        if (!block.ListsExpertsFirst)
        {
            Add("experts", _experts);
        }

        _shared = block.Shared is null ? null : Add(block.SharedName, block.Shared());
        _sharedGate = block.GatesShared ? Add(block.SharedName + "_gate", new Linear(width, 1)) : null;
    }

    /// <summary>For each expert that a token visits: its input, gate and up, their product, its output.</summary>
    internal override long KeptBytes(int elementBytes) => _chosen * ((2 * _width) + (3 * _innerSize)) * elementBytes;

    public override IReadOnlyList<Tensor> Forward(Tensor x, Tensor? residual, ForwardContext context)
    {
        var routing = _router.Forward(x, context, _correction);
        if (_shared is not null)
        {
            residual = _sharedGate is null ? _shared.Compute(x, residual, context) : Gated(_shared, _sharedGate, x, residual, context);
        }

        return [_experts.Forward(x, residual, routing, context), routing.Logits];
    }

    private static Tensor Gated(LlamaMLP shared, Linear gate, Tensor x, Tensor? residual, ForwardContext context)
    {
        var gated = SigmoidGate.Forward(shared.Compute(x, null, context), gate.Forward(x, context), context);
        return residual is null ? gated : ResidualSum.Forward(residual, gated, context);
    }
}

/// <summary>The families that are Llama's or Qwen's with experts in place of the MLP.</summary>
internal static class Mixture
{
    /// <summary>Mixtral's experts are called w1 (gate), w3 (up) and w2 (down) in files.</summary>
    public static KeyMap MixtralKeys { get; } = new(
        new KeyRule("mlp.experts.gate_up_proj", "block_sparse_moe.experts.#.w1.weight", "block_sparse_moe.experts.#.w3.weight"),
        new KeyRule("mlp.experts.down_proj", "block_sparse_moe.experts.#.w2.weight"),
        new KeyRule("mlp.gate", "block_sparse_moe.gate"));

    /// <summary>Files hold a gated MLP for each expert.</summary>
    public static KeyMap QwenKeys { get; } = new(
        new KeyRule("mlp.experts.gate_up_proj", "mlp.experts.#.gate_proj.weight", "mlp.experts.#.up_proj.weight"),
        new KeyRule("mlp.experts.down_proj", "mlp.experts.#.down_proj.weight"));

    public static LlamaTraits Mixtral { get; } = new(HasWindow: true)
    {
        FeedForward = static (config, _) => Block(config, new SparseBlock(
            Count(config, "num_local_experts", "num_experts"), config.InnerSize, new RouterRule(Chosen(config)) { Normalises = true })),
    };

    public static LlamaTraits Qwen2 { get; } = new(HasProjectionBias: true, HasWindow: true)
    {
        // Every other of the first layers, unlike in Qwen2.
        IsLocal = static (config, layer) => layer % 2 == 0 && layer < config.Source.Integer("max_window_layers"),
        FeedForward = static (config, layer) => Qwen(config, layer, SharedBlock(config, config.Source.Boolean("norm_topk_prob") ?? false)),
    };

    public static LlamaTraits Qwen3 { get; } = new(HasWindow: true, HasHeadNorms: true)
    {
        IsLocal = static (_, _) => true,
        FeedForward = static (config, layer) => Qwen(config, layer, QwenBlock(config, config.Source.Boolean("norm_topk_prob") ?? false) with { ListsExpertsFirst = true }),
    };

    public static JsonObject MixtralDefaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "intermediate_size": 14336, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "rope_theta": 1000000.0,
            "num_experts_per_tok": 2, "num_local_experts": 8
        }
        """);

    public static JsonObject Qwen2Defaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_key_value_heads": 16, "max_position_embeddings": 32768, "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28,
            "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4, "num_experts": 60
        }
        """);

    public static JsonObject Qwen3Defaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24, "num_attention_heads": 32,
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "use_sliding_window": false, "sliding_window": 4096,
            "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": 128
        }
        """);

    /// <summary>A number of experts, under whichever name the file gives it.</summary>
    public static long Count(LlamaConfig config, string key, string other) =>
        config.Source.Document.ContainsKey(other) ? config.Source.Size(other, 1, most: 4096) : config.Source.Size(key, 1, most: 4096);

    public static long Chosen(LlamaConfig config) => config.Source.Size("num_experts_per_tok", 2, most: 4096);

    public static SparseMoeBlock Block(LlamaConfig config, SparseBlock block) => new(config.Stem, config.HiddenSize, config.ActivationName, block);

    /// <summary>Routed experts beside a gated shared one.</summary>
    public static SparseBlock SharedBlock(LlamaConfig config, bool normalises) => QwenBlock(config, normalises) with
    {
        Shared = () => new LlamaMLP(config, config.Source.Size("shared_expert_intermediate_size", 512)),
        GatesShared = true,
    };

    private static SparseBlock QwenBlock(LlamaConfig config, bool normalises) => new(
        Count(config, "num_experts", "num_local_experts"),
        config.Source.Size("moe_intermediate_size", 512),
        new RouterRule(Chosen(config)) { Normalises = normalises });

    /// <summary>Every so many layers, and never in those that are named, experts stand in place of the MLP.</summary>
    public static FeedForward Qwen(LlamaConfig config, int layer, SparseBlock block)
    {
        var isDense = config.Source.Numbers("mlp_only_layers")?.Contains(layer) == true || (layer + 1) % config.Source.Size("decoder_sparse_step", 1) != 0;
        return isDense ? new LlamaMLP(config) : Block(config, block);
    }
}
