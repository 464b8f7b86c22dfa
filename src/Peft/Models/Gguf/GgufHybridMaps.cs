using System.Text.Json.Nodes;
using Peft.Models.Architectures;
using Peft.Tensors.Gguf;
using TorchSharp;
using static Peft.Models.Gguf.GgufMaps;
using static Peft.Models.Gguf.GgufMixtureMaps;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>The rows of families that mix positions by a recurrence in most layers.</summary>
internal static class GgufHybridMaps
{
    /// <summary>Logarithms of decays, which files hold as the decays that they stand for.</summary>
    internal static readonly GgufLayout s_decay = GgufLayout.Values(static (values, _) => values.to(ScalarType.Float32).exp().neg(), static (values, _) => values.neg().log());

    internal static readonly GgufKey[] s_deltaKeys =
    [
        new("linear_conv_kernel_dim", "ssm.conv_kernel") { Otherwise = static (_, _) => 4 },
        new("linear_key_head_dim", "ssm.state_size") { Otherwise = static (_, _) => 128 },
        new("linear_num_key_heads", "ssm.group_count") { Otherwise = static (_, _) => 16 },
        new("linear_num_value_heads", "ssm.time_step_rank") { Otherwise = static (_, _) => 32 },
    ];

    /// <summary>The gated delta rule; heads of values that share a key's stand one behind the other in the tree, and a number of keys apart in files.</summary>
    internal static readonly GgufName[] s_delta =
    [
        new("linear_attn.in_proj_qkv", "attn_qkv") { Layout = DeltaRows(static sizes => (2 * sizes.KeyHeads * sizes.Size, sizes.Size)) },
        new("linear_attn.in_proj_z", "attn_gate") { Layout = DeltaRows(static sizes => (0, sizes.Size)) },
        new("linear_attn.in_proj_b", "ssm_beta") { Layout = DeltaRows(static _ => (0, 1)) },
        new("linear_attn.in_proj_a", "ssm_alpha") { Layout = DeltaRows(static _ => (0, 1)) },
        new("linear_attn.A_log", "ssm_a") { Layout = Then(DeltaRows(static _ => (0, 1)), s_decay) },
        new("linear_attn.dt_bias", "ssm_dt.bias") { Layout = DeltaRows(static _ => (0, 1)) },
        new("linear_attn.conv1d", "ssm_conv1d") { Layout = Then(DeltaRows(static sizes => (2 * sizes.KeyHeads * sizes.Size, sizes.Size)), GgufLayout.Convolution) },
        new("linear_attn.norm", "ssm_norm"),
        new("linear_attn.out_proj", "ssm_out") { Layout = GgufLayout.Columns(static (values, config, toFile) => Tiled(values, DeltaSizes(config), -1, static sizes => (0, sizes.Size), toFile)) },
    ];

    internal static readonly GgufName[] s_gatedAttention =
    [
        .. WithoutOutputBias(s_llama[..4]),
        .. AddingOne([.. s_headNorms, new("input_layernorm", "attn_norm"), new("post_attention_layernorm", "post_attention_norm")]),
        .. s_delta,
    ];

    internal static readonly GgufName[] s_qwenExperts = [.. Experts("mlp"), .. Shared("mlp.shared_expert"), new("mlp.shared_expert_gate", "ffn_gate_inp_shexp") { Layout = GgufLayout.Vector }];

    public static GgufMap Qwen35 { get; } = new("qwen35")
    {
        Keys = [.. Sizes(), .. HeadKeys(), .. s_deltaKeys],
        Fixed = [s_silu, new("attention_bias", false), new("attn_output_gate", true)],
        Rotary = new() { Share = 0.25 },
        Recurs = DeltaLayers,
        Further = static (_, config) => DeltaMetadata(config),
        Complete = CompleteDelta,
        Whole = AddingOne([new("embed_tokens", "token_embd"), new("norm", "output_norm")]),
        InLayer = [.. s_gatedAttention, .. s_llama[4..]],
    };

    public static GgufMap Qwen35Moe { get; } = Qwen35 with
    {
        Architecture = "qwen35moe",
        Keys =
        [
            .. Sizes().SkipLast(1), .. HeadKeys(), .. s_deltaKeys, .. s_expertKeys,
            new("moe_intermediate_size", "expert_feed_forward_length") { IsRequired = true },
            new("shared_expert_intermediate_size", "expert_shared_feed_forward_length") { IsRequired = true },
        ],
        InLayer = [.. s_gatedAttention, .. s_qwenExperts],
    };

    /// <summary>Qwen3-Next: heads of values stand by their key's in files too; queries, keys and values are one tensor there, and gates another.</summary>
    public static GgufMap Qwen3Next { get; } = Qwen35Moe with
    {
        Architecture = "qwen3next",
        Fixed = [s_silu, new("attention_bias", false), new("norm_topk_prob", true), new("decoder_sparse_step", 1.0), new("mlp_only_layers", (object?)null)],
        Further = static (_, config) => DeltaMetadata(config, hasSections: false),
        InLayer =
        [
            .. s_gatedAttention.Except(s_delta),
            new("linear_attn.in_proj_qkvz", "attn_qkv", "attn_gate")
            {
                Layout = GgufLayout.Cuts(
                    static (values, config) => Joined(config) is var joined ? [joined.Mixed(values, 0), joined.Gates(values, 0)] : [],
                    static (parts, config) => Joined(config).Join(parts[0], parts[1]),
                    static (shape, config) => Joined(config) is var joined && joined.ValueHeads * joined.ValueSize is var gates ? [[shape[0] - gates, shape[1]], [gates, shape[1]]] : []),
            },
            new("linear_attn.in_proj_ba", "ssm_ba"),
            new("linear_attn.A_log", "ssm_a") { Layout = s_decay },
            new("linear_attn.dt_bias", "ssm_dt.bias"),
            new("linear_attn.conv1d", "ssm_conv1d") { Layout = GgufLayout.Convolution },
            new("linear_attn.norm", "ssm_norm"),
            new("linear_attn.out_proj", "ssm_out"),
            .. s_qwenExperts,
        ],
    };

    internal static readonly GgufKey[] s_graniteKeys =
    [
        .. Granite.Keys.Where(static key => key.File is not ("attention.head_count_kv" or "feed_forward_length")),
        new("mamba_d_conv", "ssm.conv_kernel") { Otherwise = static (_, _) => 4 },
        new("mamba_d_state", "ssm.state_size") { Otherwise = static (_, _) => 256 },
        new("mamba_n_groups", "ssm.group_count") { Otherwise = static (_, _) => 1 },
        new("mamba_n_heads", "ssm.time_step_rank") { Otherwise = static (_, _) => 128 },
        new(null, "ssm.inner_size") { Otherwise = static (_, config) => 2 * config.RequiredInteger("hidden_size") },
    ];

    internal static readonly GgufName[] s_granite =
    [
        .. s_turned[..4],
        .. s_llamaNorms,
        new("mamba.in_proj", "ssm_in"),
        new("mamba.conv1d.bias", "ssm_conv1d.bias"),
        new("mamba.conv1d", "ssm_conv1d") { Layout = GgufLayout.Convolution },
        new("mamba.dt_bias", "ssm_dt.bias"),
        new("mamba.A_log", "ssm_a") { Layout = Then(s_decay, GgufLayout.Column) },
        new("mamba.D", "ssm_d") { Layout = GgufLayout.Column },
        new("mamba.norm", "ssm_norm")
        {
            Layout = GgufLayout.Parts(
                static (values, config) => [values.view(config.Size("mamba_n_groups", 1), -1)],
                static (parts, _) => parts[0].flatten(),
                static (shape, config) => [[config.Size("mamba_n_groups", 1), shape[0] / config.Size("mamba_n_groups", 1)]]),
        },
        new("mamba.out_proj", "ssm_out"),
    ];

    internal static readonly GgufName[] s_graniteShared = [new("shared_mlp.input_linear.weight", "ffn_gate.weight", "ffn_up.weight") { Layout = GgufLayout.Halves }, new("shared_mlp.output_linear", "ffn_down")];

    internal static readonly GgufName[] s_graniteExperts =
    [
        new("shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", "ffn_up_shexp.weight") { Layout = GgufLayout.Halves },
        new("shared_mlp.output_linear", "ffn_down_shexp"),
        new("block_sparse_moe.router", "ffn_gate_inp"),
        new("block_sparse_moe.experts.gate_up_proj", "ffn_gate_exps.weight", "ffn_up_exps.weight") { Layout = GgufLayout.GateAndUp, Fused = "ffn_gate_up_exps.weight" },
        new("block_sparse_moe.experts.down_proj", "ffn_down_exps.weight"),
    ];

    // It ends the process that runs a convolution without biases.
    private static readonly GgufFixed[] s_graniteFixed = [s_silu, new("mamba_proj_bias", false), new("mamba_conv_bias", true), new("mamba_expand", 2.0)];

    /// <summary>Granite 4.0: Mamba-2 beside attention, or attention alone, which llama.cpp takes for its older Granite.</summary>
    public static GgufMap GraniteHybrid { get; } = new("granitehybrid")
    {
        Keys = [.. s_graniteKeys, new("shared_intermediate_size", "feed_forward_length") { Otherwise = static (_, _) => 1024 }],
        Fixed = s_graniteFixed,
        Further = static (_, config) => GraniteMetadata(config, isHybrid: true),
        Complete = CompleteGranite,
        InLayer = [.. s_granite, .. s_graniteShared],
        Others =
        [
            Sparse("granitehybrid", isHybrid: true) with { Marker = "expert_count" },
            Sparse("granitemoe", isHybrid: false),
            Granite with
            {
                IsWrittenOnly = true,
                Serves = static config => !IsHybrid(config) && !HasExperts(config),
                Keys = [.. Granite.Keys.Where(static key => key.File != "feed_forward_length"), new("shared_intermediate_size", "feed_forward_length") { Otherwise = static (_, _) => 1024 }],
                Further = static (_, config) => GraniteMetadata(config, isHybrid: false),
                InLayer = [.. s_granite, .. s_graniteShared],
            },
        ],
    };

    internal static GgufMap Sparse(string architecture, bool isHybrid) => new(architecture)
    {
        Serves = config => IsHybrid(config) == isHybrid && HasExperts(config),
        Keys =
        [
            .. isHybrid ? s_graniteKeys : [.. Granite.Keys.Where(static key => key.File != "feed_forward_length")],
            new("intermediate_size", "feed_forward_length") { IsRequired = true },
            new("shared_intermediate_size", "expert_shared_feed_forward_length") { Otherwise = static (_, _) => 1024 },
            ExpertCount("num_local_experts", "num_experts"), s_expertKeys[1],
        ],
        Fixed = isHybrid ? s_graniteFixed : [s_silu],
        Further = (_, config) => GraniteMetadata(config, isHybrid),
        Complete = CompleteGranite,
        InLayer = [.. s_granite, .. s_graniteExperts],
    };

    internal static bool HasExperts(ModelConfig config) => config.Integer("num_local_experts") > 0;

    internal static bool IsHybrid(ModelConfig config) => GraniteLayers(config).Contains(false);

    /// <summary>Of each layer whether it has attention.</summary>
    internal static bool[] GraniteLayers(ModelConfig config) =>
        [.. Enumerable.Range(0, (int)config.RequiredInteger("num_hidden_layers")).Select(layer => config.TextOf("layer_types", layer) is "attention" or "full_attention")];

    internal static IEnumerable<(string Key, object Value)> GraniteMetadata(ModelConfig config, bool isHybrid)
    {
        if (isHybrid && config.Node("time_step_limit") is JsonArray limits && limits.Select(static (limit, i) => ModelConfig.NumberOf(limit) is { } bound && (i == 0 ? bound > 0 : double.IsFinite(bound))).Any(static binds => binds))
        {
            throw Refused("time_step_limit", "llama.cpp sets no bounds to Mamba-2's steps (time_step_limit).");
        }

        if (isHybrid)
        {
            var shared = (uint)(config.Integer("num_key_value_heads") ?? config.RequiredInteger("num_attention_heads"));
            yield return ("attention.head_count_kv", GraniteLayers(config).Select(attends => attends ? shared : 0u).ToArray());
        }

        yield return (TurnsKey, config.String("position_embedding_type") == "rope");
    }

    internal static void CompleteGranite(JsonObject config, GgufFile file, GgufMap map)
    {
        var heads = WholeNumbers(file.Metadata, map.Key("attention.head_count_kv"));
        var isHybrid = heads.Count > 0;
        var layers = (int)(long)config["num_hidden_layers"]!;
        config["layer_types"] = new JsonArray([.. Enumerable.Range(0, layers).Select(layer => (JsonNode)(isHybrid && heads.ElementAtOrDefault(layer) == 0 ? "mamba" : "attention"))]);
        config["position_embedding_type"] = file.Metadata.GetBoolean(map.Key(TurnsKey), true) ? "rope" : "nope";
        config["attention_bias"] = file.Names.Any(static name => name.EndsWith(".attn_q.bias", StringComparison.Ordinal));
        if (!config.ContainsKey("num_local_experts"))
        {
            config["num_local_experts"] = 0;
            config["num_experts_per_tok"] = 0;
            config["intermediate_size"] = config["shared_intermediate_size"]!.DeepClone();
        }

        if (isHybrid)
        {
            config["num_key_value_heads"] = heads.Max() is > 0 and var shared ? shared : config["num_attention_heads"]!.DeepClone();
            config["mamba_conv_bias"] = file.Names.Any(static name => name.EndsWith(".ssm_conv1d.bias", StringComparison.Ordinal));
            config["mamba_d_head"] = file.Metadata.GetInteger(map.Key("ssm.inner_size")) / Math.Max(1, (long)config["mamba_n_heads"]!);
        }
    }

    internal static IEnumerable<(string Key, object Value)> DeltaMetadata(ModelConfig config, bool hasSections = true)
    {
        var (_, valueHeads, size) = DeltaSizes(config);
        if (config.Size("linear_value_head_dim", 128) != size)
        {
            throw Refused("linear_value_head_dim", "llama.cpp has heads of one width for keys and values in recurrent layers (linear_key_head_dim, linear_value_head_dim).");
        }

        var recurs = DeltaLayers(config);
        var period = Array.IndexOf(recurs, false) is >= 0 and var first ? first + 1 : recurs.Length + 1;
        yield return ("ssm.inner_size", (uint)(valueHeads * size));
        yield return recurs.Select((recurrent, layer) => recurrent == ((layer + 1) % period != 0)).All(static fits => fits)
            ? ("full_attention_interval", (uint)period)
            : ("attention.recurrent_layers", recurs);

        if (!hasSections)
        {
            yield break;
        }

        // A frequency turns by time, height or width, which are one in texts; each needs a part.
        var pairs = GgufRotaryKeys.Turning(Qwen35, config, config.RequiredInteger("head_dim")) / 2;
        var sections = GgufRotaryKeys.Parameters(config)?.Numbers("mrope_section")?.Select(static part => (int)part).Take(4) ?? [(int)(pairs + 2) / 3, (int)(pairs + 1) / 3, (int)pairs / 3];
        yield return ("rope.dimension_sections", sections.Concat(Enumerable.Repeat(0, 4)).Take(4).ToArray());
    }

    /// <summary>Of each layer whether it has the delta rule.</summary>
    internal static bool[] DeltaLayers(ModelConfig config)
    {
        var interval = config.Size("full_attention_interval", 4);
        return [.. Enumerable.Range(0, (int)config.RequiredInteger("num_hidden_layers"))
            .Select(layer => config.TextOf("layer_types", layer) is { } kind ? kind == "linear_attention" : (layer + 1) % interval != 0)];
    }

    internal static void CompleteDelta(JsonObject config, GgufFile file, GgufMap map)
    {
        var metadata = file.Metadata;
        config["linear_value_head_dim"] = metadata.GetInteger(map.Key("ssm.inner_size")) / Math.Max(1, (long)config["linear_num_value_heads"]!);
        var interval = metadata.GetInteger(map.Key("full_attention_interval"), 4);
        var recurs = metadata.GetArray<bool>(map.Key("attention.recurrent_layers"));
        config["layer_types"] = new JsonArray([.. Enumerable.Range(0, (int)(long)config["num_hidden_layers"]!)
            .Select(layer => (JsonNode)((recurs is null ? (layer + 1) % Math.Max(1, interval) != 0 : recurs.ElementAtOrDefault(layer)) ? "linear_attention" : "full_attention"))]);
        if (WholeNumbers(metadata, map.Key("rope.dimension_sections")) is { Count: > 0 } sections)
        {
            config["rope_parameters"]!["mrope_section"] = new JsonArray([.. sections.Take(3).Select(static part => (JsonNode)part)]);
            config["rope_parameters"]!["mrope_interleaved"] = true;
        }
    }

    /// <summary>A list of whole numbers, of whichever type; empty where there is none.</summary>
    internal static IReadOnlyList<long> WholeNumbers(GgufMetadata metadata, string key) => !metadata.TryGetValue(key, out var value) ? [] : value switch
    {
        uint[] numbers => [.. numbers.Select(static number => (long)number)],
        int[] numbers => [.. numbers.Select(static number => (long)number)],
        ulong[] numbers => [.. numbers.Select(static number => (long)number)],
        long[] numbers => numbers,
        _ => [],
    };

    internal static (long KeyHeads, long ValueHeads, long Size) DeltaSizes(ModelConfig config) =>
        (config.Size("linear_num_key_heads", 16), config.Size("linear_num_value_heads", 32), config.Size("linear_key_head_dim", 128));

    internal static JoinedDelta Joined(ModelConfig config)
    {
        var (keys, values, size) = DeltaSizes(config);
        return new JoinedDelta(keys, values, size, config.Size("linear_value_head_dim", 128));
    }

    internal static GgufLayout DeltaRows(Func<(long KeyHeads, long ValueHeads, long Size), (long Start, long Size)> place) => GgufLayout.Rows(
        (values, config) => Tiled(values, DeltaSizes(config), 0, place, toFile: true),
        (values, config) => Tiled(values, DeltaSizes(config), 0, place, toFile: false));

    /// <summary>Heads of values behind a start, from key to key in the tree, and from one of each key to the next of each in files.</summary>
    internal static Tensor Tiled(Tensor values, (long KeyHeads, long ValueHeads, long Size) sizes, int dimension, Func<(long KeyHeads, long ValueHeads, long Size), (long Start, long Size)> place, bool toFile)
    {
        var each = sizes.ValueHeads / sizes.KeyHeads;
        var (start, size) = place(sizes);
        var at = dimension < 0 ? (int)values.dim() - 1 : dimension;
        if (each == 1 || values.size(at) != start + (sizes.ValueHeads * size))
        {
            return values;
        }

        var rest = values.narrow(at, start, values.size(at) - start);
        var heads = rest.reshape([.. rest.shape[..at], toFile ? sizes.KeyHeads : each, toFile ? each : sizes.KeyHeads, size, .. rest.shape[(at + 1)..]]);
        return cat([values.narrow(at, 0, start), heads.transpose(at, at + 1).reshape(rest.shape)], at);
    }

    /// <summary>One layout, then another of a single tensor.</summary>
    internal static GgufLayout Then(GgufLayout first, GgufLayout second) => new(
        (values, config) => second.ToFile(first.ToFile(values, config)[0], config),
        (parts, config) => first.ToTree([second.ToTree(parts, config)], config))
    {
        Shapes = second.Shapes,
    };
}
