using System.Text.Json.Nodes;
using Peft.Tensors.Gguf;
using static Peft.Models.Gguf.GgufMaps;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>The rows of families whose tokens visit experts, and of those with another kind of attention.</summary>
internal static class GgufMixtureMaps
{
    // llama.cpp's numbers for what a router's scores become.
    internal const uint Sigmoid = 2;

    internal static readonly GgufName[] s_experts = Experts("mlp");

    internal static readonly GgufKey[] s_expertKeys = [ExpertCount("num_experts", "num_local_experts"), new("num_experts_per_tok", "expert_used_count") { IsRequired = true }];

    /// <summary>DeepSeek-V3's experts, chosen in groups.</summary>
    internal static readonly GgufKey[] s_groupedExpertKeys =
    [
        new("first_k_dense_replace", "leading_dense_block_count") { Otherwise = static (_, _) => 3 },
        new("moe_intermediate_size", "expert_feed_forward_length") { IsRequired = true },
        ExpertCount("n_routed_experts", "num_local_experts"), s_expertKeys[1],
        new("n_shared_experts", "expert_shared_count") { Otherwise = static (_, _) => 1 },
        new("routed_scaling_factor", "expert_weights_scale", GgufKind.Number) { Otherwise = static (_, _) => 2.5 },
        new("norm_topk_prob", "expert_weights_norm", GgufKind.Flag),
        new("n_group", "expert_group_count") { Otherwise = static (_, _) => 8 },
        new("topk_group", "expert_group_used_count") { Otherwise = static (_, _) => 4 },
    ];

    public static GgufMap Mixtral { get; } = Llama with
    {
        Marker = "expert_count",
        Keys = [.. Llama.Keys, ExpertCount("num_local_experts", "num_experts"), s_expertKeys[1]],
        Flags = [],
        InLayer = [.. s_turned[..4], .. s_llamaNorms, .. s_experts],
    };

    public static GgufMap Qwen2Moe { get; } = Qwen2 with
    {
        Architecture = "qwen2moe",
        NeedsHead = true,
        Keys =
        [
            .. Qwen2.Keys, .. s_expertKeys,
            new("moe_intermediate_size", "expert_feed_forward_length") { IsRequired = true },
            new("shared_expert_intermediate_size", "expert_shared_feed_forward_length") { IsRequired = true },
        ],
        Fixed = [s_silu, new("norm_topk_prob", false), new("decoder_sparse_step", 1.0), new("mlp_only_layers", (object?)null)],
        Flags = [new("qkv_bias", "blk.0.attn_q.bias")],
        InLayer = [.. s_llama[..4], .. s_llamaNorms, .. s_experts, .. Shared("mlp.shared_expert"), new("mlp.shared_expert_gate", "ffn_gate_inp_shexp") { Layout = GgufLayout.Vector }],
    };

    public static GgufMap Qwen3Moe { get; } = Qwen3 with
    {
        Architecture = "qwen3moe",
        Keys = [.. Qwen3.Keys, .. s_expertKeys, new("moe_intermediate_size", "expert_feed_forward_length") { IsRequired = true }],
        Fixed = [s_silu, new("norm_topk_prob", true), new("decoder_sparse_step", 1.0), new("mlp_only_layers", (object?)null)],
        InLayer = [.. WithoutOutputBias(s_llama[..4]), .. s_headNorms, .. s_llamaNorms, .. s_experts],
    };

    public static GgufMap GptOss { get; } = new("gpt-oss")
    {
        NeedsHead = true,
        Keys =
        [
            .. Sizes(), .. HeadKeys(), ExpertCount("num_local_experts", "num_experts"), s_expertKeys[1],
            new(null, "expert_feed_forward_length") { Otherwise = static (_, config) => config.RequiredInteger("intermediate_size") },
        ],
        Fixed = [s_silu, new("swiglu_limit", 7.0), new("swiglu_alpha", 1.702), new("attention_bias", true)],
        Window = new(2),
        InLayer =
        [
            .. s_llama[..4],
            new("self_attn.sinks", "attn_sinks.weight"),
            new("input_layernorm", "attn_norm"),
            new("post_attention_layernorm", "post_attention_norm"),
            new("mlp.router", "ffn_gate_inp"),
            new("mlp.experts.gate_up_proj", "ffn_gate_exps.weight", "ffn_up_exps.weight") { Layout = GgufLayout.GateUpPairs, Fused = "ffn_gate_up_exps.weight" },
            new("mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias", "ffn_up_exps.bias") { Layout = GgufLayout.GateUpPairs, Fused = "ffn_gate_up_exps.bias" },
            new("mlp.experts.down_proj", "ffn_down_exps.weight") { Layout = GgufLayout.Turned },
            new("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
        ],
    };

    public static GgufMap Deepseek { get; } = new("deepseek2")
    {
        NeedsHead = true,
        HeadHasAdapters = false,
        Keys =
        [
            .. Sizes(),
            new("num_attention_heads", "attention.head_count") { IsRequired = true },
            new("rms_norm_eps", Rms, GgufKind.Number) { Otherwise = static (_, _) => 1e-6, IsRequired = true },
            new("q_lora_rank", "attention.q_lora_rank"),
            new("kv_lora_rank", "attention.kv_lora_rank") { IsRequired = true },
            new(null, "attention.head_count_kv") { Otherwise = static (_, _) => 1 },
            new(null, "attention.key_length") { Otherwise = static (_, config) => config.RequiredInteger("kv_lora_rank") + config.RequiredInteger("qk_rope_head_dim") },
            new(null, "attention.value_length") { Otherwise = static (_, config) => config.RequiredInteger("kv_lora_rank") },
            new("qk_head_dim", "attention.key_length_mla") { Otherwise = static (_, config) => config.RequiredInteger("qk_nope_head_dim") + config.RequiredInteger("qk_rope_head_dim") },
            new("v_head_dim", "attention.value_length_mla") { IsRequired = true },
            .. s_groupedExpertKeys,
        ],
        Fixed = [s_silu, new("rope_interleave", true), new("attention_bias", false)],
        Stated = [("expert_gating_func", Sigmoid)],
        Rotary = new() { SizeKey = "qk_rope_head_dim" },
        Further = static (_, config) => GgufRotaryKeys.Parameters(config)?.Number("mscale_all_dim") is { } all && all != 0 ? [("rope.scaling.yarn_log_multiplier", (float)(0.1 * all))] : [],
        Complete = CompleteDeepseek,
        InLayer =
        [
            new("self_attn.q_proj", "attn_q") { HasAdapters = false },
            new("self_attn.q_a_proj", "attn_q_a") { HasAdapters = false },
            new("self_attn.q_a_layernorm", "attn_q_a_norm"),
            new("self_attn.q_b_proj", "attn_q_b") { HasAdapters = false },
            new("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa") { HasAdapters = false },
            new("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
            new("self_attn.kv_b_proj.weight", "attn_k_b.weight", "attn_v_b.weight") { Layout = KeysAndValues() },
            new("self_attn.o_proj", "attn_output"),
            .. s_llama[4..],
            .. s_llamaNorms,
            .. s_experts,
            new("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
            .. Shared("mlp.shared_experts"),
        ],
    };

    /// <summary>As in GLM-4, products of another precision take no adapters.</summary>
    public static GgufMap Glm4Moe { get; } = new("glm4moe")
    {
        Keys = [.. Sizes(), .. HeadKeys(), .. s_groupedExpertKeys],
        Fixed = [s_silu],
        Flags = [new("attention_bias", "blk.0.attn_q.bias"), new("use_qk_norm", "blk.0.attn_q_norm.weight")],
        Stated = [("expert_gating_func", Sigmoid)],
        Rotary = new() { Share = 0.5 },
        InLayer =
        [
            .. s_llama[..3],
            s_llama[3] with { HasBias = false, HasAdapters = false },
            .. s_headNorms,
            .. s_llama[4..6],
            s_llama[6] with { HasAdapters = false },
            new("input_layernorm", "attn_norm"),
            new("post_attention_layernorm", "post_attention_norm"),
            .. s_experts,
            new("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
            .. Shared("mlp.shared_experts")[..2],
            Shared("mlp.shared_experts")[2] with { HasAdapters = false },
        ],
    };

    public static GgufMap Lfm2 { get; } = new("lfm2")
    {
        Keys =
        [
            .. Sizes().Select(static key => key.File == "feed_forward_length" ? key with { Of = Lfm2Inner } : key),
            new("num_attention_heads", "attention.head_count") { IsRequired = true },
            new("norm_eps", Rms, GgufKind.Number) { Otherwise = static (_, _) => 1e-5, IsRequired = true },
            new("conv_L_cache", "shortconv.l_cache") { Otherwise = static (_, _) => 3 },
        ],
        Fixed = [new("conv_bias", false)],
        Further = static (_, config) => [("attention.head_count_kv", Lfm2Heads(config))],
        Complete = static (config, file, map) =>
        {
            var heads = file.Metadata.GetArray<uint>(map.Key("attention.head_count_kv")) is { } unsigned ? unsigned.Select(static count => (long)count).ToArray()
                : [.. file.Metadata.GetArray<int>(map.Key("attention.head_count_kv"))?.Select(static count => (long)count) ?? []];
            config["num_key_value_heads"] = heads.DefaultIfEmpty(0).Max();
            config["layer_types"] = new JsonArray([.. heads.Select(static count => (JsonNode)(count > 0 ? "full_attention" : "conv"))]);
            config["block_auto_adjust_ff_dim"] = false;
        },
        Whole = [new("embed_tokens", "token_embd"), new("embedding_norm", "token_embd_norm")],
        InLayer = Lfm2Names(),
    };

    public static GgufMap Lfm2Moe { get; } = Lfm2 with
    {
        Architecture = "lfm2moe",
        Keys =
        [
            .. Lfm2.Keys, .. s_expertKeys,
            new("moe_intermediate_size", "expert_feed_forward_length") { IsRequired = true },
            new("num_dense_layers", "leading_dense_block_count") { Otherwise = static (_, _) => 2 },
        ],
        Fixed = [.. Lfm2.Fixed, new("norm_topk_prob", true), new("routed_scaling_factor", 1.0), new("use_expert_bias", true)],
        Stated = [("expert_gating_func", Sigmoid)],
        InLayer = [.. Lfm2Names(), .. Experts("feed_forward"), new("feed_forward.expert_bias", "exp_probs_b.bias")],
    };

    internal static GgufName[] Experts(string mlp) =>
    [
        new(mlp + ".gate.weight", "ffn_gate_inp.weight"),
        new(mlp + ".experts.gate_up_proj", "ffn_gate_exps.weight", "ffn_up_exps.weight") { Layout = GgufLayout.GateAndUp, Fused = "ffn_gate_up_exps.weight" },
        new(mlp + ".experts.down_proj", "ffn_down_exps.weight"),
    ];

    internal static GgufName[] Shared(string module) =>
        [new(module + ".gate_proj", "ffn_gate_shexp"), new(module + ".up_proj", "ffn_up_shexp"), new(module + ".down_proj", "ffn_down_shexp")];

    // Configurations give the number under either name; only one of them has a default.
    internal static GgufKey ExpertCount(string key, string other) => new(key, "expert_count")
    {
        IsRequired = true,
        Of = model => model.Backbone.Config is var config && config.Document.ContainsKey(other) ? config.Number(other) : null,
    };

    internal static GgufName[] Lfm2Names() =>
    [
        .. s_llama[..3],
        new("self_attn.out_proj", "attn_output"),
        new("self_attn.q_layernorm", "attn_q_norm"),
        new("self_attn.k_layernorm", "attn_k_norm"),
        new("conv.conv", "shortconv.conv") { Layout = GgufLayout.Convolution },
        new("conv.in_proj", "shortconv.in_proj"),
        new("conv.out_proj", "shortconv.out_proj"),
        new("feed_forward.w1", "ffn_gate"),
        new("feed_forward.w3", "ffn_up"),
        new("feed_forward.w2", "ffn_down"),
        new("operator_norm", "attn_norm"),
        new("ffn_norm", "ffn_norm"),
    ];

    // Layers without attention have no key and value heads.
    internal static uint[] Lfm2Heads(ModelConfig config)
    {
        var shared = (uint)(config.Integer("num_key_value_heads") ?? 8);
        return [.. Enumerable.Range(0, (int)config.RequiredInteger("num_hidden_layers")).Select(layer =>
            (config.TextOf("layer_types", layer) is { } kind ? kind == "conv" : config.Numbers("full_attn_idxs")?.Contains(layer) == false) ? 0 : shared)];
    }

    // The configuration's number may be cut and rounded before it is a width.
    internal static double? Lfm2Inner(PretrainedModel model) =>
        model.NamedWeights().Where(static named => named.Path.EndsWith("layers.0.feed_forward.w1.weight", StringComparison.Ordinal)).Select(static named => (double?)named.Parameter.Shape[0]).FirstOrDefault();

    internal static void CompleteDeepseek(JsonObject config, GgufFile file, GgufMap map)
    {
        config["qk_rope_head_dim"] = file.Metadata.GetInteger(map.Key("rope.dimension_count"));
        config["qk_nope_head_dim"] = (long)config["qk_head_dim"]! - (long)config["qk_rope_head_dim"]!;
        config["head_dim"] = config["qk_rope_head_dim"]!.DeepClone();
        config["num_key_value_heads"] = config["num_attention_heads"]!.DeepClone();
        if (!config.ContainsKey("q_lora_rank"))
        {
            config["q_lora_rank"] = null;
        }

        if (file.Metadata.ContainsKey(map.Key("rope.scaling.yarn_log_multiplier")))
        {
            foreach (var key in (string[])["rope_parameters", "rope_scaling"])
            {
                config[key]!["mscale_all_dim"] = file.Metadata.GetNumber(map.Key("rope.scaling.yarn_log_multiplier")) / 0.1;
                config[key]!["mscale"] = 1.0;
            }
        }
    }

    /// <summary>What expands a latent: keys [heads, rank, size], which are multiplied from the other side, and values [heads, size, rank].</summary>
    internal static GgufLayout KeysAndValues()
    {
        return GgufLayout.Parts(
            static (values, config) =>
            {
                var (heads, keys, size) = Sizes(config);
                var each = values.view(heads, keys + size, -1);
                return [each.narrow(1, 0, keys).transpose(1, 2).contiguous(), each.narrow(1, keys, size).contiguous()];
            },
            static (parts, _) => cat([parts[0].transpose(1, 2), parts[1]], 1).flatten(0, 1),
            static (shape, config) => Sizes(config) is var (heads, keys, size) ? [[heads, shape[1], keys], [heads, size, shape[1]]] : []);

        static (long Heads, long Keys, long Values) Sizes(ModelConfig config) =>
            (config.RequiredInteger("num_attention_heads"), config.Size("qk_nope_head_dim", 128), config.Size("v_head_dim", 128));
    }
}
