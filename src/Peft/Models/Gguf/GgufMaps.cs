using System.Text.Json.Nodes;
using Peft.Tensors.Gguf;

namespace Peft.Models.Gguf;

/// <summary>What the families' rows are put together from, and the rows of those that are built like Llama.</summary>
internal static class GgufMaps
{
    internal const string TurnsKey = "rope.scaling.finetuned";
    internal const string Rms = "attention.layer_norm_rms_epsilon";
    internal const string Plain = "attention.layer_norm_epsilon";

    internal static readonly GgufLayout s_queries = GgufLayout.Neighbours("num_attention_heads");
    internal static readonly GgufLayout s_keys = GgufLayout.Neighbours("num_key_value_heads");

    /// <summary>Attention of four layers and a gated MLP of three.</summary>
    internal static readonly GgufName[] s_llama =
    [
        new("self_attn.q_proj", "attn_q"),
        new("self_attn.k_proj", "attn_k"),
        new("self_attn.v_proj", "attn_v"),
        new("self_attn.o_proj", "attn_output"),
        new("mlp.gate_proj", "ffn_gate"),
        new("mlp.up_proj", "ffn_up"),
        new("mlp.down_proj", "ffn_down"),
    ];

    internal static readonly GgufName[] s_turned =
        [s_llama[0] with { Layout = s_queries }, s_llama[1] with { Layout = s_keys }, .. s_llama[2..]];

    internal static readonly GgufName[] s_headNorms = [new("self_attn.q_norm", "attn_q_norm"), new("self_attn.k_norm", "attn_k_norm")];

    internal static readonly GgufName[] s_llamaNorms = [new("input_layernorm", "attn_norm"), new("post_attention_layernorm", "ffn_norm")];

    internal static readonly GgufName[] s_gemmaNorms =
    [
        new("input_layernorm", "attn_norm"),
        new("post_attention_layernorm", "post_attention_norm"),
        new("pre_feedforward_layernorm", "ffn_norm"),
        new("post_feedforward_layernorm", "post_ffw_norm"),
    ];

    internal static readonly GgufFixed s_silu = new("hidden_act", "silu");

    internal static readonly GgufFlag[] s_biases = [new("attention_bias", "blk.0.attn_output.bias"), new("mlp_bias", "blk.0.ffn_up.bias")];

    /// <summary>Llama and what is built like it to the last name.</summary>
    public static GgufMap Llama { get; } = new("llama") { Keys = [.. Sizes(), .. HeadKeys()], Fixed = [s_silu], Flags = s_biases, InLayer = [.. s_turned, .. s_llamaNorms] };

    public static GgufMap Qwen2 { get; } = Llama with { Architecture = "qwen2", Flags = [], InLayer = [.. s_llama, .. s_llamaNorms] };

    public static GgufMap Qwen3 { get; } = Qwen2 with { Architecture = "qwen3", InLayer = [.. WithoutOutputBias(s_llama), .. s_headNorms, .. s_llamaNorms] };

    public static GgufMap Granite { get; } = Llama with
    {
        Architecture = "granite",
        Keys =
        [
            .. Llama.Keys,
            new("attention_multiplier", "attention.scale", GgufKind.Number),
            new("embedding_multiplier", "embedding_scale", GgufKind.Number),
            new("residual_multiplier", "residual_scale", GgufKind.Number),
            new("logits_scaling", "logit_scale", GgufKind.Number),
        ],
        Complete = static (_, file, map) =>
        {
            if (!file.Metadata.GetBoolean(map.Key(TurnsKey), true))
            {
                throw Refused(TurnsKey, $"'{file.Path}' holds a Granite without rotary positions, which Peft reads from safetensors alone.");
            }
        },
    };

    /// <summary>Ministral 3, whose queries grow with their position.</summary>
    public static GgufMap Ministral3 { get; } = Llama with
    {
        Architecture = "mistral3",
        Flags = [],
        Rotary = new() { StatesDivisor = true },
        Further = static (_, config) => GgufRotaryKeys.Parameters(config)?.Number("llama_4_scaling_beta") is not { } beta ? []
            : GgufRotaryKeys.Kind(config) == "yarn" ? [("attention.temperature_scale", (float)beta)]
            : throw Refused("llama_4_scaling_beta", "llama.cpp lets queries grow with their position in 'mistral3' where positions are scaled by YaRN alone."),
        Complete = static (config, file, map) =>
        {
            if (file.Metadata.GetNumber(map.Key("attention.temperature_scale"), 0) is not 0 and var beta)
            {
                foreach (var rope in new[] { config["rope_parameters"], config["rope_scaling"] }.OfType<JsonObject>())
                {
                    rope["llama_4_scaling_beta"] = beta;
                }
            }
        },
    };

    /// <summary>Neighbours turn together, and llama.cpp reads no biases.</summary>
    public static GgufMap Ernie { get; } = Llama with { Architecture = "ernie4_5", Fixed = [s_silu, new("use_bias", false)], Flags = [], InLayer = [.. s_llama, .. s_llamaNorms] };

    /// <summary>Every fourth layer has no rotary positions, which files don't say.</summary>
    public static GgufMap SmolLM3 { get; } = Llama with
    {
        Architecture = "smollm3",
        Fixed = [s_silu, new("no_rope_layer_interval", 4.0), new("attention_bias", false), new("mlp_bias", false)],
        Flags = [],
        Further = static (_, config) => RefuseLayersWithoutRotary(config),
    };

    public static GgufMap Olmo2 { get; } = Qwen2 with
    {
        Architecture = "olmo2",
        InLayer = [.. WithoutOutputBias(s_llama), .. s_headNorms, new("post_attention_layernorm", "post_attention_norm"), new("post_feedforward_layernorm", "post_ffw_norm")],
    };

    public static GgufMap Olmo3 { get; } = Olmo2 with
    {
        Marker = "attention.sliding_window",
        Window = new(4),
        Rotary = new() { LocalBase = ("rope_local_base_freq", 500000), StatesLocalBase = false },
    };

    public static GgufMap Glm4 { get; } = new("glm4")
    {
        Keys = [.. Sizes(), .. HeadKeys()],
        Fixed = [s_silu],
        Flags = [new("attention_bias", "blk.0.attn_q.bias")],
        Rotary = new() { Share = 0.5 },
        InLayer =
        [
            .. s_llama[..3],

            // Products of another precision, which llama.cpp can't set where an adapter has been added.
            s_llama[3] with { HasBias = false, HasAdapters = false },
            new("mlp.gate_up_proj", "ffn_up"),
            new("mlp.down_proj", "ffn_down") { HasAdapters = false },
            new("input_layernorm", "attn_norm"),
            new("post_self_attn_layernorm", "post_attention_norm"),
            new("post_attention_layernorm", "ffn_norm"),
            new("post_mlp_layernorm", "post_ffw_norm"),
        ],
    };

    public static GgufMap Phi3 { get; } = new("phi3")
    {
        Keys = [.. Sizes(), .. HeadKeys()],
        Fixed = [s_silu],
        Rotary = new() { Share = 1 },
        InLayer =
        [
            new("self_attn.qkv_proj", "attn_qkv"),
            new("self_attn.o_proj", "attn_output"),
            new("mlp.gate_up_proj", "ffn_up"),
            new("mlp.down_proj", "ffn_down"),
            .. s_llamaNorms,
        ],
    };

    public static GgufMap Gemma { get; } = new("gemma")
    {
        HeadIsEmbedding = true,
        Keys = [.. Sizes(), .. HeadKeys()],
        Fixed = [new("hidden_act", "gelu_pytorch_tanh", "gelu")],
        Whole = AddingOne([new("embed_tokens", "token_embd"), new("norm", "output_norm")]),
        InLayer = AddingOne([.. WithoutOutputBias(s_llama), .. s_llamaNorms]),
    };

    public static GgufMap Gemma2 { get; } = Gemma with
    {
        Architecture = "gemma2",
        Keys =
        [
            .. Gemma.Keys,
            new("attn_logit_softcapping", "attn_logit_softcapping", GgufKind.Number),
            new("final_logit_softcapping", "final_logit_softcapping", GgufKind.Number),
        ],
        Fixed = [new("hidden_activation", "gelu_pytorch_tanh")],
        Window = new(2),
        Complete = static (config, file, map) => config["query_pre_attn_scalar"] = GemmaScalar(new ModelConfig(config), 46),
        InLayer = AddingOne([Scaled("self_attn.q_proj", "attn_q", 46), .. WithoutOutputBias(s_llama[1..]), .. s_gemmaNorms]),
    };

    public static GgufMap Gemma3 { get; } = Gemma2 with
    {
        Architecture = "gemma3",
        HeadIsEmbedding = false,
        Keys = [.. Gemma.Keys, new("final_logit_softcapping", "final_logit_softcapping", GgufKind.Number) { Otherwise = static (_, _) => 0 }],
        Fixed = [.. Gemma2.Fixed, new("attn_logit_softcapping", (object?)null)],
        Window = new(6) { PeriodKey = "sliding_window_pattern", ReadsPeriod = true },
        Rotary = new() { LocalBase = ("rope_local_base_freq", 10000) },
        Complete = static (config, file, map) =>
        {
            config["query_pre_attn_scalar"] = GemmaScalar(new ModelConfig(config), 62);
            NoCap(config);
            config["attn_logit_softcapping"] = null;
        },
        InLayer = AddingOne([.. WithoutOutputBias(s_llama), Scaled("self_attn.q_norm", "attn_q_norm", 62), s_headNorms[1], .. s_gemmaNorms]),
    };

    /// <summary>Sizes by the keys of a family.</summary>
    /// <param name="width">Width of hidden states.</param>
    /// <param name="layers">Number of blocks.</param>
    /// <param name="inner">Width of the MLP; null where it follows from <paramref name="innerTimes"/>.</param>
    /// <param name="positions">Longest input.</param>
    /// <param name="innerTimes">How many times the model's width the MLP's is where the configuration doesn't say.</param>
    internal static IEnumerable<GgufKey> Sizes(
        string width = "hidden_size", string layers = "num_hidden_layers", string? inner = "intermediate_size", string? positions = "max_position_embeddings", double? innerTimes = null) =>
    [
        new(positions, "context_length") { Otherwise = static (_, _) => 2048 },
        new(width, "embedding_length") { IsRequired = true },
        new(layers, "block_count") { IsRequired = true },
        new(inner, "feed_forward_length") { IsRequired = innerTimes is null, Otherwise = innerTimes is { } times ? (_, config) => times * config.RequiredInteger(width) : null },
    ];

    /// <summary>Attention and norms by the keys of a family.</summary>
    /// <param name="heads">Number of heads.</param>
    /// <param name="shared">Number of key and value heads; null where there is no key.</param>
    /// <param name="size">Width of a head; null where there is no key.</param>
    /// <param name="epsilon">Added to variances.</param>
    /// <param name="norm">Its key in files.</param>
    /// <param name="groups">Number of key and value heads where there is no key; null for that of heads.</param>
    internal static IEnumerable<GgufKey> HeadKeys(
        string heads = "num_attention_heads", string? shared = "num_key_value_heads", string? size = "head_dim", string epsilon = "rms_norm_eps", string norm = Rms, Func<ModelConfig, long>? groups = null) =>
    [
        new(heads, "attention.head_count") { IsRequired = true },
        new(shared, "attention.head_count_kv") { Otherwise = (_, config) => groups?.Invoke(config) ?? config.RequiredInteger(heads) },
        new(epsilon, norm, GgufKind.Number) { Otherwise = (_, _) => norm == Rms ? 1e-6 : 1e-5, IsRequired = true },
        .. size is null ? Array.Empty<GgufKey>() : [HeadKey("attention.key_length"), HeadKey("attention.value_length")],
    ];

    internal static GgufKey HeadKey(string file) => new("head_dim", file) { Otherwise = static (_, config) => config.RequiredInteger("hidden_size") / config.RequiredInteger("num_attention_heads") };

    internal static IReadOnlyList<GgufName> WithoutOutputBias(IEnumerable<GgufName> names) => [.. names.Select(static name => name.File[0] == "attn_output" ? name with { HasBias = false } : name)];

    internal static IReadOnlyList<GgufName> AddingOne(IEnumerable<GgufName> names) =>
        [.. names.Select(static name => name.Tree.EndsWith("norm", StringComparison.Ordinal) && ReferenceEquals(name.Layout, GgufLayout.Plain) ? name with { Layout = GgufLayout.PlusOne } : name)];

    /// <summary>A cap of 0 is none.</summary>
    internal static void NoCap(JsonObject config)
    {
        if (config["final_logit_softcapping"] is null || (double)config["final_logit_softcapping"]! == 0)
        {
            config["final_logit_softcapping"] = null;
        }
    }

    /// <summary>What llama.cpp divides scores by the root of: by the size of the head, but for the largest of a family, by the width over the number of heads.</summary>
    internal static double GemmaScalar(ModelConfig config, long largest) => config.RequiredInteger("num_hidden_layers") == largest
        ? (double)config.RequiredInteger("hidden_size") / config.RequiredInteger("num_attention_heads")
        : config.RequiredInteger("head_dim");

    /// <summary>Queries, or the norm of their heads, grown by what another scale of scores makes of them.</summary>
    internal static GgufName Scaled(string tree, string file, long largest)
    {
        var isNorm = file.EndsWith("norm", StringComparison.Ordinal);
        return new GgufName(tree, file)
        {
            Layout = GgufLayout.Values(
                (values, config) => Growth(config) is var growth && isNorm ? (values.to(TorchSharp.torch.ScalarType.Float32) + 1) * growth : growth == 1 ? values : values * growth,
                (values, _) => isNorm ? values - 1 : values),
        };

        double Growth(ModelConfig config) => Math.Sqrt(GemmaScalar(config, largest) / (config.Number("query_pre_attn_scalar") ?? GemmaScalar(config, largest)));
    }

    internal static IEnumerable<(string Key, object Value)> RefuseLayersWithoutRotary(ModelConfig config)
    {
        var count = (int)config.RequiredInteger("num_hidden_layers");
        return config.Numbers("no_rope_layers") is not { } layers || Enumerable.Range(0, count).All(layer => layer >= layers.Count || layers[layer] != 0 == ((layer + 1) % 4 != 0))
            ? []
            : throw Refused("no_rope_layers", "llama.cpp has a layer without rotary positions after each three with them in 'smollm3'; this model's layers stand otherwise (no_rope_layers).");
    }

    internal static NotSupportedByPeftException Refused(string key, string message) =>
        new("GgufSettingNotSupported", message) { Target = key, RecommendedAction = "Export the model as safetensors." };
}
