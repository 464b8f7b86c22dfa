using System.Text.Json.Nodes;
using static Peft.Models.Gguf.GgufMaps;

namespace Peft.Models.Gguf;

/// <summary>The rows of decoders between layer norms.</summary>
internal static class GgufDecoderMaps
{
    private static readonly string[] s_gelu = ["gelu_new", "gelu_pytorch_tanh", "gelu", "gelu_fast"];

    private static readonly GgufName[] s_gpt2 =
    [
        new("attn.c_attn", "attn_qkv"),
        new("attn.c_proj", "attn_output"),
        new("mlp.c_fc", "ffn_up"),
        new("mlp.c_proj", "ffn_down"),
        new("ln_1", "attn_norm"),
        new("ln_2", "ffn_norm"),
    ];

    public static GgufMap Gpt2 { get; } = new("gpt2")
    {
        Keys = [.. Sizes("n_embd", "n_layer", "n_inner", "n_positions", innerTimes: 4), .. HeadKeys("n_head", null, null, "layer_norm_epsilon", Plain)],
        Fixed = [Gelu("activation_function", "gelu_new"), new("scale_attn_weights", true), new("scale_attn_by_inverse_layer_idx", false)],
        Layers = "h",
        LayersKey = "n_layer",
        Rotary = null,
        Whole = [new("wte", "token_embd"), new("wpe", "position_embd"), new("ln_f", "output_norm")],
        InLayer = s_gpt2,
    };

    public static GgufMap GptBigCode { get; } = Gpt2 with
    {
        Architecture = "starcoder",
        Keys = [.. Sizes("n_embd", "n_layer", "n_inner", "n_positions", innerTimes: 4), .. HeadKeys("n_head", null, null, "layer_norm_epsilon", Plain, BigCodeGroups)],
        Fixed = [Gelu("activation_function", "gelu_pytorch_tanh"), new("scale_attn_weights", true)],
        Complete = static (config, file, map) =>
        {
            var shared = file.Metadata.GetInteger(map.Key("attention.head_count_kv"), (long)config["n_head"]!);
            config["multi_query"] = shared == 1;
            config["num_key_value_heads"] = shared;
        },
        InLayer = [s_gpt2[0] with { Layout = GgufLayout.ByGroup(static config => (config.RequiredInteger("n_head"), BigCodeGroups(config))) }, .. s_gpt2[1..]],
    };

    public static GgufMap GptNeoX { get; } = new("gptneox")
    {
        NeedsHead = true,
        Keys = [.. Sizes(), .. HeadKeys(shared: null, size: null, epsilon: "layer_norm_eps", norm: Plain), new("use_parallel_residual", "use_parallel_residual", GgufKind.Flag)],
        Fixed = [Gelu("hidden_act", "gelu"), new("attention_bias", true)],
        Rotary = new() { Share = 0.25 },
        Whole = [new("embed_in", "token_embd"), new("final_layer_norm", "output_norm")],
        InLayer =
        [
            new("attention.query_key_value", "attn_qkv") { Layout = GgufLayout.ByGroup(static config => Alone(config, "num_attention_heads")) },
            new("attention.dense", "attn_output"),
            new("mlp.dense_h_to_4h", "ffn_up"),
            new("mlp.dense_4h_to_h", "ffn_down"),
            .. s_llamaNorms,
        ],
    };

    public static GgufMap Bloom { get; } = new("bloom")
    {
        Keys = [.. Sizes("hidden_size", "n_layer", null, "seq_length", innerTimes: 4), .. HeadKeys("n_head", null, null, "layer_norm_epsilon", Plain)],
        Fixed = [new("apply_residual_connection_post_layernorm", false)],
        Layers = "h",
        LayersKey = "n_layer",
        Rotary = null,
        Whole = [new("word_embeddings", "token_embd"), new("word_embeddings_layernorm", "token_embd_norm"), new("ln_f", "output_norm")],
        InLayer =
        [
            new("self_attention.query_key_value", "attn_qkv") { Layout = GgufLayout.ByGroup(static config => Alone(config, "n_head")) },
            new("self_attention.dense", "attn_output"),
            new("mlp.dense_h_to_4h", "ffn_up"),
            new("mlp.dense_4h_to_h", "ffn_down"),
            .. s_llamaNorms,
        ],
    };

    /// <summary>Falcon with rotary positions; llama.cpp knows none with ALiBi, and no biases.</summary>
    public static GgufMap Falcon { get; } = new("falcon")
    {
        Keys = [.. Sizes(inner: "ffn_hidden_size", innerTimes: 4), .. HeadKeys(shared: null, size: null, epsilon: "layer_norm_epsilon", norm: Plain, groups: FalconGroups)],
        Fixed = [Gelu("activation", "gelu"), new("alibi", false), new("bias", false), new("parallel_attn", true)],
        Layers = "h",
        Whole = [new("word_embeddings", "token_embd"), new("ln_f", "output_norm")],
        Complete = static (config, file, map) =>
        {
            var (shared, hasTwo) = (file.Metadata.GetInteger(map.Key("attention.head_count_kv"), 1), file.Contains("blk.0.attn_norm_2.weight"));
            config["new_decoder_architecture"] = hasTwo || shared != 1;
            config["num_ln_in_parallel_attn"] = hasTwo ? 2 : 1;
            config["num_kv_heads"] = shared;
            config["multi_query"] = shared == 1;
        },
        InLayer =
        [
            new("self_attention.query_key_value", "attn_qkv") { Layout = GgufLayout.ByGroup(static config => (config.RequiredInteger("num_attention_heads"), FalconGroups(config))) },
            new("self_attention.dense", "attn_output"),
            new("mlp.dense_h_to_4h", "ffn_up"),
            new("mlp.dense_4h_to_h", "ffn_down"),
            new("input_layernorm", "attn_norm"),
            new("ln_mlp", "attn_norm"),
            new("ln_attn", "attn_norm_2"),
        ],
    };

    public static GgufMap Mpt { get; } = new("mpt")
    {
        Keys =
        [
            .. Sizes("d_model", "n_layers", null, "max_seq_len", innerTimes: 4), .. HeadKeys("n_heads", null, null, "layer_norm_epsilon", Plain),
            new(null, "attention.max_alibi_bias", GgufKind.Number) { Otherwise = static (_, _) => 8 },
            new(null, "attention.clamp_kqv", GgufKind.Number) { Otherwise = static (_, config) => (config.Node("attn_config") as JsonObject)?["clip_qkv"]?.GetValue<double>() },
        ],
        Fixed = [new("attn_config.softmax_scale", (object?)null)],
        Complete = static (config, file, map) =>
        {
            if (file.Metadata.GetNumber(map.Key("attention.clamp_kqv"), 0) is > 0 and var clip)
            {
                config["attn_config"] = new JsonObject { ["clip_qkv"] = clip };
            }
        },
        Layers = "blocks",
        LayersKey = "n_layers",
        Rotary = null,
        Whole = [new("wte", "token_embd"), new("norm_f", "output_norm")],
        InLayer =
        [
            new("attn.Wqkv", "attn_qkv"),
            new("attn.out_proj", "attn_output"),
            new("ffn.up_proj", "ffn_up"),
            new("ffn.down_proj", "ffn_down"),
            new("norm_1", "attn_norm"),
            new("norm_2", "ffn_norm"),
        ],
    };

    public static GgufMap Starcoder2 { get; } = new("starcoder2")
    {
        Keys = [.. Sizes(), .. HeadKeys(size: null, epsilon: "norm_epsilon", norm: Plain)],
        Fixed = [Gelu("hidden_act", "gelu_pytorch_tanh"), new("use_bias", true)],
        Flags = [new("use_bias", "blk.0.attn_q.bias")],
        InLayer = [.. s_llama[..4], new("mlp.c_fc", "ffn_up"), new("mlp.c_proj", "ffn_down"), .. s_llamaNorms],
    };

    public static GgufMap StableLm { get; } = new("stablelm")
    {
        NeedsHead = true,
        Keys = [.. Sizes(), .. HeadKeys(size: null, epsilon: "layer_norm_eps", norm: Plain), new("use_parallel_residual", "use_parallel_residual", GgufKind.Flag)],
        Fixed = [s_silu],
        Flags = [new("use_qkv_bias", "blk.0.attn_q.bias"), new("qk_layernorm", "blk.0.attn_q_norm.weight"), new("use_parallel_residual", "!blk.0.ffn_norm.weight")],
        Rotary = new() { Share = 0.25 },
        InLayer = [.. s_llama, new("self_attn.q_layernorm.norms.#", "attn_q_norm"), new("self_attn.k_layernorm.norms.#", "attn_k_norm"), .. s_llamaNorms],
    };

    public static GgufMap Cohere { get; } = new("command-r")
    {
        HeadIsEmbedding = true,
        Keys = [.. Sizes(), .. HeadKeys(size: null, epsilon: "layer_norm_eps", norm: Plain), new("logit_scale", "logit_scale", GgufKind.Number) { Otherwise = static (_, _) => 0.0625 }],
        Fixed = [s_silu, new("attention_bias", false)],
        Flags = [new("use_qk_norm", "blk.0.attn_q_norm.weight")],

        // By their number it tells Command R+, whose heads have norms, from Command R.
        Further = static (_, config) => config.Boolean("use_qk_norm") == true && config.RequiredInteger("num_hidden_layers") < 64
            ? throw GgufMaps.Refused("use_qk_norm", "llama.cpp has norms on query and key heads in 'command-r' from 64 layers on.")
            : [],
        InLayer = [.. s_llama, .. s_headNorms, s_llamaNorms[0]],
    };

    public static GgufMap Phi { get; } = new("phi2")
    {
        NeedsHead = true,
        Keys = [.. Sizes(), .. HeadKeys(size: null, epsilon: "layer_norm_eps", norm: Plain)],
        Fixed = [Gelu("hidden_act", "gelu_new"), new("qk_layernorm", false)],
        Rotary = new() { Share = 0.5 },
        Whole = [new("embed_tokens", "token_embd"), new("final_layernorm", "output_norm")],
        InLayer = [.. s_llama[..3], new("self_attn.dense", "attn_output"), new("mlp.fc1", "ffn_up"), new("mlp.fc2", "ffn_down"), s_llamaNorms[0]],
    };

    // ggml forms one approximation, whatever a model was trained with.
    private static GgufFixed Gelu(string key, string usual) => new(key, [usual, .. s_gelu.Where(name => name != usual)]);

    private static (long Heads, long Groups) Alone(ModelConfig config, string key) => (config.RequiredInteger(key), config.RequiredInteger(key));

    private static long BigCodeGroups(ModelConfig config) => config.Boolean("multi_query") == false ? config.RequiredInteger("n_head") : 1;

    private static long FalconGroups(ModelConfig config)
    {
        var heads = config.RequiredInteger("num_attention_heads");
        return config.Boolean("new_decoder_architecture") == true ? config.Integer("num_kv_heads") ?? heads : config.Boolean("multi_query") ?? true ? 1 : heads;
    }
}
