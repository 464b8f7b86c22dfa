namespace Peft.Adapters.Targets;

/// <summary>The modules that are adapted in a family when a configuration names none: PEFT's, and ours for the families that it has none for (docs/families.md).</summary>
public static class DefaultTargets
{
    private static readonly ModuleNames s_queryAndValue = ModuleNames.Of("q_proj", "v_proj");
    private static readonly ModuleNames s_fusedAttention = ModuleNames.Of("query_key_value");
    private static readonly ModuleNames s_recurrent = ModuleNames.Of("q_proj", "v_proj", "in_proj_qkv");

    private static readonly Dictionary<string, ModuleNames> s_lora = new(StringComparer.Ordinal)
    {
        ["bart"] = s_queryAndValue,
        ["bert"] = ModuleNames.Of("query", "value"),
        ["blip-2"] = ModuleNames.Of("q", "v", "q_proj", "v_proj"),
        ["bloom"] = s_fusedAttention,
        ["btlm"] = ModuleNames.Of("c_proj", "c_attn"),
        ["chatglm"] = s_fusedAttention,
        ["clip"] = s_queryAndValue,
        ["clip_vision_model"] = s_queryAndValue,
        ["codegen"] = ModuleNames.Of("qkv_proj"),
        ["deberta"] = ModuleNames.Of("in_proj"),
        ["deberta-v2"] = ModuleNames.Of("query_proj", "value_proj"),
        ["electra"] = ModuleNames.Of("query", "value"),
        ["falcon"] = s_fusedAttention,
        ["gemma"] = s_queryAndValue,
        ["gemma2"] = s_queryAndValue,
        ["gemma3_text"] = s_queryAndValue,
        ["gemma4"] = ModuleNames.Matching(@".*language_model\..*\.(q_proj|v_proj)"),
        ["gpt2"] = ModuleNames.Of("c_attn"),
        ["gpt_bigcode"] = ModuleNames.Of("c_attn"),
        ["gpt_neo"] = s_queryAndValue,
        ["gpt_neox"] = s_fusedAttention,
        ["gptj"] = s_queryAndValue,
        ["layoutlm"] = ModuleNames.Of("query", "value"),
        ["llama"] = s_queryAndValue,
        ["llama4"] = s_queryAndValue,
        ["mistral"] = s_queryAndValue,
        ["mixtral"] = s_queryAndValue,
        ["mpt"] = ModuleNames.Of("Wqkv"),
        ["mt5"] = ModuleNames.Of("q", "v"),
        ["nemotron_h"] = ModuleNames.Of("q_proj", "k_proj", "v_proj", "o_proj"),
        ["opt"] = s_queryAndValue,
        ["phi"] = ModuleNames.Of("q_proj", "v_proj", "fc1", "fc2"),
        ["qwen2"] = s_queryAndValue,
        ["qwen3"] = s_queryAndValue,
        ["RefinedWeb"] = s_fusedAttention,
        ["RefinedWebModel"] = s_fusedAttention,
        ["roberta"] = ModuleNames.Of("query", "value"),
        ["rwkv"] = ModuleNames.Of("key", "value", "receptance", "output"),
        ["rwkv7"] = ModuleNames.Of("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"),
        ["stablelm"] = s_queryAndValue,
        ["t5"] = ModuleNames.Of("q", "v"),
        ["vit"] = s_queryAndValue,
        ["xlm-roberta"] = ModuleNames.Of("query", "value"),

        // Ours, where PEFT has none: queries and values as in the families above, and what lets positions mix where attention doesn't.
        ["cohere"] = s_queryAndValue,
        ["deepseek_v3"] = ModuleNames.Of("q_proj", "q_b_proj", "kv_b_proj"),
        ["distilbert"] = ModuleNames.Of("q_lin", "v_lin"),
        ["gemma3"] = s_queryAndValue,
        ["gemma4_text"] = s_queryAndValue,
        ["ernie4_5"] = s_queryAndValue,
        ["glm4"] = s_queryAndValue,
        ["glm4_moe"] = s_queryAndValue,
        ["gpt_oss"] = s_queryAndValue,
        ["granite"] = s_queryAndValue,
        ["granitemoehybrid"] = ModuleNames.Of("q_proj", "v_proj", "in_proj"),
        ["lfm2"] = ModuleNames.Of("q_proj", "v_proj", "in_proj"),
        ["lfm2_moe"] = ModuleNames.Of("q_proj", "v_proj", "in_proj"),
        ["ministral3"] = s_queryAndValue,
        ["mistral3"] = s_queryAndValue,
        ["modernbert"] = ModuleNames.Of("Wqkv"),
        ["olmo2"] = s_queryAndValue,
        ["olmo3"] = s_queryAndValue,
        ["phi3"] = ModuleNames.Of("qkv_proj"),
        ["qwen2_moe"] = s_queryAndValue,
        ["qwen3_5"] = s_recurrent,
        ["qwen3_5_moe"] = s_recurrent,
        ["qwen3_5_moe_text"] = s_recurrent,
        ["qwen3_5_text"] = s_recurrent,
        ["qwen3_moe"] = s_queryAndValue,
        ["qwen3_next"] = ModuleNames.Of("q_proj", "v_proj", "in_proj_qkvz"),
        ["smollm3"] = s_queryAndValue,
        ["starcoder2"] = s_queryAndValue,
    };

    private static readonly Dictionary<string, ModuleNames> s_ia3 = new(StringComparer.Ordinal)
    {
        ["bart"] = ModuleNames.Of("q_proj", "v_proj", "fc2"),
        ["bert"] = ModuleNames.Of("key", "value", "output.dense"),
        ["bloom"] = ModuleNames.Of("query_key_value", "mlp.dense_4h_to_h"),
        ["deberta"] = ModuleNames.Of("in_proj", "output.dense"),
        ["deberta-v2"] = ModuleNames.Of("key_proj", "value_proj", "output.dense"),
        ["falcon"] = ModuleNames.Of("query_key_value", "dense_4h_to_h"),
        ["gemma"] = ModuleNames.Of("q_proj", "v_proj", "down_proj"),
        ["gemma2"] = ModuleNames.Of("q_proj", "v_proj", "down_proj"),
        ["gemma3_text"] = ModuleNames.Of("q_proj", "v_proj", "down_proj"),
        ["gpt2"] = ModuleNames.Of("c_attn", "mlp.c_proj"),
        ["gpt_bigcode"] = ModuleNames.Of("c_attn", "mlp.c_proj"),
        ["gpt_neo"] = ModuleNames.Of("q_proj", "v_proj", "c_proj"),
        ["gpt_neox"] = ModuleNames.Of("query_key_value", "dense_4h_to_h"),
        ["gptj"] = ModuleNames.Of("q_proj", "v_proj", "fc_out"),
        ["llama"] = ModuleNames.Of("k_proj", "v_proj", "down_proj"),
        ["llama4"] = ModuleNames.Of("q_proj", "v_proj", "down_proj"),
        ["mistral"] = ModuleNames.Of("k_proj", "v_proj", "down_proj"),
        ["mixtral"] = ModuleNames.Of("k_proj", "v_proj", "w2"),
        ["mt5"] = ModuleNames.Of("k", "v", "wi_1"),
        ["opt"] = ModuleNames.Of("q_proj", "k_proj", "fc2"),
        ["phi"] = ModuleNames.Of("q_proj", "v_proj", "fc2"),
        ["qwen2"] = ModuleNames.Of("q_proj", "v_proj", "down_proj"),
        ["qwen3"] = ModuleNames.Of("q_proj", "v_proj", "down_proj"),
        ["RefinedWeb"] = ModuleNames.Of("query_key_value", "dense_4h_to_h"),
        ["RefinedWebModel"] = ModuleNames.Of("query_key_value", "dense_4h_to_h"),
        ["roberta"] = ModuleNames.Of("key", "value", "output.dense"),
        ["t5"] = ModuleNames.Of("k", "v", "wo"),
    };

    private static readonly Dictionary<string, ModuleNames> s_ia3Feedforward = new(StringComparer.Ordinal)
    {
        ["bart"] = ModuleNames.Of("fc2"),
        ["bert"] = ModuleNames.Of("output.dense"),
        ["bloom"] = ModuleNames.Of("mlp.dense_4h_to_h"),
        ["deberta"] = ModuleNames.Of("output.dense"),
        ["deberta-v2"] = ModuleNames.Of("output.dense"),
        ["falcon"] = ModuleNames.Of("dense_4h_to_h"),
        ["gemma"] = ModuleNames.Of("down_proj"),
        ["gemma2"] = ModuleNames.Of("down_proj"),
        ["gemma3_text"] = ModuleNames.Of("down_proj"),
        ["gpt2"] = ModuleNames.Of("mlp.c_proj"),
        ["gpt_bigcode"] = ModuleNames.Of("mlp.c_proj"),
        ["gpt_neo"] = ModuleNames.Of("c_proj"),
        ["gpt_neox"] = ModuleNames.Of("dense_4h_to_h"),
        ["gptj"] = ModuleNames.Of("fc_out"),
        ["llama"] = ModuleNames.Of("down_proj"),
        ["llama4"] = ModuleNames.Of("down_proj"),
        ["mistral"] = ModuleNames.Of("down_proj"),
        ["mixtral"] = ModuleNames.Of("w2"),
        ["mt5"] = ModuleNames.Of(),
        ["opt"] = ModuleNames.Of("fc2"),
        ["phi"] = ModuleNames.Of("fc2"),
        ["qwen2"] = ModuleNames.Of("down_proj"),
        ["qwen3"] = ModuleNames.Of("down_proj"),
        ["RefinedWeb"] = ModuleNames.Of("dense_4h_to_h"),
        ["RefinedWebModel"] = ModuleNames.Of("dense_4h_to_h"),
        ["roberta"] = ModuleNames.Of("output.dense"),
        ["t5"] = ModuleNames.Of("wo"),
    };

    /// <summary>LoRA's targets by <c>model_type</c>, which most methods share.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> Lora => s_lora;

    /// <summary>LoRA's targets with a few of another method's own.</summary>
    /// <param name="others">What differs, by <c>model_type</c>.</param>
    public static IReadOnlyDictionary<string, ModuleNames> LoraWith(params ReadOnlySpan<(string ModelType, string[] Names)> others)
    {
        var targets = new Dictionary<string, ModuleNames>(s_lora, StringComparer.Ordinal);
        foreach (var (modelType, names) in others)
        {
            targets[modelType] = ModuleNames.Of(names);
        }

        return targets;
    }

    /// <summary>AdaLoRA's targets by <c>model_type</c>: fewer families than LoRA's, and more modules in some.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> AdaLora { get; } = WithoutLaterFamilies(
        ("bart", ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]),
        ("deberta-v2", ["query_proj", "key_proj", "value_proj", "dense"]),
        ("mt5", ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]),
        ("opt", ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]),
        ("roberta", ["query", "key", "value", "dense"]),
        ("t5", ["q", "k", "v", "o", "wi", "wo"]));

    /// <summary>VB-LoRA's targets by <c>model_type</c>: AdaLoRA's, with fewer modules in one family.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> VbLora { get; } =
        new Dictionary<string, ModuleNames>(AdaLora, StringComparer.Ordinal) { ["roberta"] = ModuleNames.Of("query", "value") };

    /// <summary>IA3's targets by <c>model_type</c>.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> IA3 => s_ia3;

    /// <summary>The norms that LN tuning trains, by <c>model_type</c>.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> Norms { get; } = new Dictionary<string, ModuleNames>(StringComparer.Ordinal)
    {
        ["bart"] = ModuleNames.Of("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
        ["blip-2"] = ModuleNames.Of("layernorm", "LayerNorm", "final_layer_norm", "self_attn_layer_norm"),
        ["bloom"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "ln_f"),
        ["falcon"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "ln_f"),
        ["gemma"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "norm"),
        ["gemma2"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"),
        ["gemma3_text"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"),
        ["gpt2"] = ModuleNames.Of("ln_1", "ln_2", "ln_f"),
        ["gptj"] = ModuleNames.Of("ln_1", "ln_f"),
        ["llama"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "norm"),
        ["llava"] = ModuleNames.Of("multi_modal_projector", "input_layernorm", "post_attention_layernorm", "norm", "embed_tokens", "lm_head"),
        ["mistral"] = ModuleNames.Of("input_layernorm", "post_attention_layernorm", "norm"),
        ["mt5"] = ModuleNames.Of("layer_norm", "final_layer_norm"),
        ["phi"] = ModuleNames.Of("input_layernorm", "final_layernorm"),
        ["qwen2"] = ModuleNames.Of("post_attention_layernorm"),
        ["qwen3"] = ModuleNames.Of("post_attention_layernorm"),
        ["t5"] = ModuleNames.Of("layer_norm", "final_layer_norm"),
    };

    /// <summary>The projections to which BEFT adds a bias, by <c>model_type</c>.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> ValueProjections { get; } = new Dictionary<string, ModuleNames>(StringComparer.Ordinal)
    {
        ["bart"] = ModuleNames.Of("v_proj"),
        ["bert"] = ModuleNames.Of("value"),
        ["deberta-v2"] = ModuleNames.Of("value_proj"),
        ["gemma"] = ModuleNames.Of("v_proj"),
        ["gemma2"] = ModuleNames.Of("v_proj"),
        ["gemma3_text"] = ModuleNames.Of("v_proj"),
        ["gpt_neo"] = ModuleNames.Of("v_proj"),
        ["gptj"] = ModuleNames.Of("v_proj"),
        ["llama"] = ModuleNames.Of("v_proj"),
        ["llama4"] = ModuleNames.Of("v_proj"),
        ["mistral"] = ModuleNames.Of("v_proj"),
        ["mixtral"] = ModuleNames.Of("v_proj"),
        ["mt5"] = ModuleNames.Of("v"),
        ["opt"] = ModuleNames.Of("v_proj"),
        ["phi"] = ModuleNames.Of("v_proj"),
        ["qwen2"] = ModuleNames.Of("v_proj"),
        ["qwen3"] = ModuleNames.Of("v_proj"),
        ["roberta"] = ModuleNames.Of("value"),
        ["t5"] = ModuleNames.Of("v"),
    };

    /// <summary>The linear layers of each block, which OSF adapts, by <c>model_type</c>.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> Blocks { get; } = WholeBlocks();

    private static Dictionary<string, ModuleNames> WholeBlocks()
    {
        string[] gated = ["gemma", "gemma2", "gemma3_text", "llama", "llama4", "mistral", "mixtral", "phi", "qwen2", "qwen3"];
        var targets = gated.ToDictionary(
            static family => family, static _ => ModuleNames.Of("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"), StringComparer.Ordinal);
        targets["bloom"] = ModuleNames.Of("query_key_value", "dense_4h_to_h");
        targets["falcon"] = targets["bloom"];
        targets["gpt2"] = ModuleNames.Of("c_attn", "c_proj");
        targets["gpt_bigcode"] = targets["gpt2"];
        targets["gpt_neox"] = targets["bloom"];
        targets["gptj"] = ModuleNames.Of("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out");
        targets["opt"] = ModuleNames.Of("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2");
        return targets;
    }

    private static Dictionary<string, ModuleNames> WithoutLaterFamilies(params ReadOnlySpan<(string ModelType, string[] Names)> others)
    {
        string[] absent =
        [
            "RefinedWeb", "RefinedWebModel", "blip-2", "btlm", "chatglm", "codegen", "electra", "falcon", "layoutlm", "mistral", "mixtral", "mpt", "phi", "rwkv",
            "rwkv7", "stablelm", "xlm-roberta",
        ];
        return LoraWith(others).Where(row => !absent.Contains(row.Key)).ToDictionary(StringComparer.Ordinal);
    }

    /// <summary>The targets whose input IA3 scales instead of their output, by <c>model_type</c>.</summary>
    public static IReadOnlyDictionary<string, ModuleNames> IA3Feedforward => s_ia3Feedforward;
}
