using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>LFM2 (Liquid AI 2025): short convolutions between gates in most layers, attention with normed heads in the others.</summary>
internal static class Lfm2
{
    private static readonly LlamaNames s_names = new()
    {
        Output = "out_proj",
        QueryNorm = "q_layernorm",
        KeyNorm = "k_layernorm",
        FeedForward = "feed_forward",
        InputNorm = "operator_norm",
        InnerNorm = "ffn_norm",
        FinalNorm = "embedding_norm",
        ListsRotaryFirst = true,
        Mlp = ["w1", "w3", "w2"],
        ListsActivation = false,
    };

    /// <summary>Experts are called w1 (gate), w3 (up) and w2 (down) in files.</summary>
    public static KeyMap Keys { get; } = new(
        new KeyRule("feed_forward.experts.gate_up_proj", "feed_forward.experts.#.w1.weight", "feed_forward.experts.#.w3.weight"),
        new KeyRule("feed_forward.experts.down_proj", "feed_forward.experts.#.w2.weight"));

    public static IReadOnlyDictionary<string, string> OtherNames { get; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["tie_word_embeddings"] = "tie_embedding",
        ["intermediate_size"] = "block_ff_dim",
    };

    public static JsonObject Defaults { get; } = Parsed("""
        {
            "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_key_value_heads": 8, "max_position_embeddings": 128000,
            "norm_eps": 1e-5, "rope_theta": 1000000.0
        }
        """);

    public static JsonObject SparseDefaults { get; } = Parsed("""
        {
            "vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168, "num_key_value_heads": 8, "max_position_embeddings": 128000,
            "norm_eps": 1e-5, "rope_theta": 1000000.0, "moe_intermediate_size": 1792, "num_dense_layers": 2, "num_experts_per_tok": 4, "num_experts": 32
        }
        """);

    public static LlamaTraits Dense(ModelConfig source)
    {
        var inner = InnerSize(source);
        return Traits(s_names) with { FeedForward = (config, _) => new LlamaMLP(config, inner) };
    }

    public static LlamaTraits Sparse(ModelConfig source)
    {
        var dense = source.Size("num_dense_layers", 2, least: 0);
        return Traits(s_names with { Rotary = "pos_emb" }) with
        {
            FeedForward = (config, layer) => layer < dense ? new LlamaMLP(config) : Mixture.Block(config, Block(config)),
        };
    }

    private static LlamaTraits Traits(LlamaNames names) => new(HasHeadNorms: true)
    {
        Names = names,
        Mixer = static (config, layer) => IsConvolution(config.Source, layer) ? new Lfm2ShortConv(config, layer) : new LlamaAttention(config, layer),
    };

    private static SparseBlock Block(LlamaConfig config)
    {
        var source = config.Source;
        var rule = new RouterRule(Mixture.Chosen(config), RouterScores.Sigmoid)
        {
            Normalises = source.Boolean("norm_topk_prob") ?? true,
            Epsilon = 1e-6,
            Scale = source.Number("routed_scaling_factor") ?? 1,
        };
        return new SparseBlock(Mixture.Count(config, "num_experts", "num_local_experts"), source.Size("moe_intermediate_size", 1792), rule)
        {
            ListsExpertsFirst = true,
            ListsActivation = false,
            Correction = source.Boolean("use_expert_bias") == false ? null : "expert_bias",
            HoldsCorrection = true,
        };
    }

    // The width is given before it is cut to two thirds and rounded up.
    private static long InnerSize(ModelConfig config)
    {
        var size = config.Size("intermediate_size", 12288);
        if (config.Boolean("block_auto_adjust_ff_dim") == false)
        {
            return size;
        }

        size = 2 * size / 3;
        if (config.Document.TryGetPropertyValue("block_ffn_dim_multiplier", out var given) && given is null)
        {
            return size;
        }

        size = (long)((config.Number("block_ffn_dim_multiplier") ?? 1) * size);
        var multiple = config.Size("block_multiple_of", 256);
        return multiple * ((size + multiple - 1) / multiple);
    }

    private static bool IsConvolution(ModelConfig config, int layer) => config.TextOf("layer_types", layer) is { } kind
        ? kind == "conv"
        : config.Numbers("full_attn_idxs")?.Contains(layer) == false;

    private static JsonObject Parsed(string json) => (JsonObject)JsonNode.Parse(json)!;
}

/// <summary>C · convolution(B · x), with B, C and x from one projection; its cache keeps the last inputs of the convolution.</summary>
internal sealed class Lfm2ShortConv : LlamaMixer
{
    private readonly ShortConvolution _convolution;
    private readonly Linear _input;
    private readonly Linear _output;
    private readonly long _width;

    public Lfm2ShortConv(LlamaConfig config, int layer)
        : base(config.Stem + "ShortConv", layer, "conv")
    {
        _width = config.HiddenSize;
        var hasBias = config.Source.Boolean("conv_bias") ?? false;
        _convolution = Add("conv", new ShortConvolution(_width, config.Source.Size("conv_L_cache", 3, most: 64), hasBias));
        _input = Add("in_proj", new Linear(_width, 3 * _width, hasBias));
        _output = Add("out_proj", new Linear(_width, _width, hasBias));
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var state = context.Cache?.State<TensorState>(Layer);
        Parameter[] parameters = _convolution.Bias is null ? [_convolution.Weight] : [_convolution.Weight, _convolution.Bias];
        var mixed = ParameterTensor.Run(inputs => Mix(inputs, pass.Layout, state), [_input.Forward(x, context)], parameters, context);
        return _output.Forward(mixed, context, residual);
    }

    /// <summary>What is convolved and what multiplies the result.</summary>
    internal override long KeptBytes(int elementBytes) => 2 * _width * elementBytes;

    private Tensor Mix(IReadOnlyList<Tensor> inputs, SequenceLayout layout, TensorState? state)
    {
        var parts = layout.Gather(inputs[0]).chunk(3, 2);
        var (convolved, past) = _convolution.Apply(parts[0] * parts[2], state?.Values.ElementAtOrDefault(0), inputs[1], inputs.ElementAtOrDefault(2));
        state?.Replace(past.clone());
        return layout.Scatter(parts[1] * convolved);
    }
}
