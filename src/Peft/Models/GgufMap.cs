namespace Peft.Models;

/// <summary>How GGUF files hold the models of a family: llama.cpp's names of what the tree calls by transformers', and its order of rows.</summary>
/// <param name="Architecture"><c>general.architecture</c>, which begins the names of sizes too.</param>
/// <param name="PairsNeighbours">Whether neighbouring rows of a query's or a key's head turn together; transformers pairs row i with row i + half.</param>
public sealed record GgufMap(string Architecture, bool PairsNeighbours = false)
{
    /// <summary>Settings of YaRN beside its factor, by their names in transformers and in files behind the architecture's.</summary>
    internal static IReadOnlyList<(string Tree, string File)> YarnNumbers { get; } =
        [("beta_fast", ".rope.scaling.yarn_beta_fast"), ("beta_slow", ".rope.scaling.yarn_beta_slow")];

    /// <summary>Names outside the layers, without <c>.weight</c> or <c>.bias</c>.</summary>
    public IReadOnlyDictionary<string, string> Whole { get; init; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["token_embd"] = "model.embed_tokens",
        ["output_norm"] = "model.norm",
        ["output"] = "lm_head",
    };

    /// <summary>Names inside a layer.</summary>
    public IReadOnlyDictionary<string, string> InLayer { get; init; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["attn_norm"] = "input_layernorm",
        ["attn_q"] = "self_attn.q_proj",
        ["attn_k"] = "self_attn.k_proj",
        ["attn_v"] = "self_attn.v_proj",
        ["attn_q_norm"] = "self_attn.q_norm",
        ["attn_k_norm"] = "self_attn.k_norm",
        ["attn_output"] = "self_attn.o_proj",
        ["ffn_norm"] = "post_attention_layernorm",
        ["ffn_gate"] = "mlp.gate_proj",
        ["ffn_up"] = "mlp.up_proj",
        ["ffn_down"] = "mlp.down_proj",
    };
}
