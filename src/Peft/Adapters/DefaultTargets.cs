namespace Peft.Adapters;

/// <summary>The modules that PEFT adapts in a family when a configuration names none.</summary>
public static class DefaultTargets
{
    private static readonly ModuleNames s_queryAndValue = ModuleNames.Of("q_proj", "v_proj");
    private static readonly ModuleNames s_fusedAttention = ModuleNames.Of("query_key_value");

    private static readonly Dictionary<string, ModuleNames> s_lora = new(StringComparer.Ordinal)
    {
        ["bart"] = s_queryAndValue,
        ["bert"] = ModuleNames.Of("query", "value"),
        ["blip-2"] = ModuleNames.Of("q", "v", "q_proj", "v_proj"),
        ["bloom"] = s_fusedAttention,
        ["btlm"] = ModuleNames.Of("c_proj", "c_attn"),
        ["chatglm"] = s_fusedAttention,
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
        ["xlm-roberta"] = ModuleNames.Of("query", "value"),
    };

    private static readonly Dictionary<string, Dictionary<string, ModuleNames>> s_methods = new(StringComparer.Ordinal)
    {
        ["LORA"] = s_lora,
    };

    /// <summary>The default targets, or null when there are none.</summary>
    /// <param name="modelType">The model's <c>model_type</c>.</param>
    /// <param name="peftType">PEFT's name of the method.</param>
    public static ModuleNames? For(string modelType, string peftType) => s_methods.GetValueOrDefault(peftType)?.GetValueOrDefault(modelType);
}
