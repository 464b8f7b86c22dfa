namespace Peft.Models;

/// <summary>How GGUF files hold the models of a family: llama.cpp's names of what the tree calls by transformers', and its order of rows.</summary>
/// <param name="Architecture"><c>general.architecture</c>, which begins the names of sizes too.</param>
/// <param name="PairsNeighbours">Whether neighbouring rows of a query's or a key's head turn together; transformers pairs row i with row i + half.</param>
public sealed record GgufMap(string Architecture, bool PairsNeighbours = false)
{
    /// <summary>Settings of YaRN beside its factor, by their names in transformers and in files behind the architecture's.</summary>
    internal static IReadOnlyList<(string Tree, string File)> YarnNumbers { get; } =
        [("beta_fast", ".rope.scaling.yarn_beta_fast"), ("beta_slow", ".rope.scaling.yarn_beta_slow")];

    /// <summary>What multiplies YaRN's scale of attention, behind the architecture's name.</summary>
    internal const string YarnAttentionKey = ".rope.scaling.attn_factor";

    /// <summary>By how much YaRN scales attention where nobody says: files state what multiplies it.</summary>
    /// <param name="factor">By how much positions are scaled.</param>
    internal static double YarnAttention(double factor) => factor <= 1 ? 1 : (0.1 * Math.Log(factor)) + 1;

    /// <summary>The activation between the MLP's layers, which files don't state.</summary>
    public string Activation { get; init; } = "silu";

    /// <summary>Whether llama.cpp reads a bias of attention's output layer in this architecture.</summary>
    public bool HasOutputBias { get; init; } = true;

    /// <summary>Whether files hold the weights of norms with the one added that the model adds itself.</summary>
    public bool AddsOneToNorms { get; init; }

    /// <summary>Numbers of the family's own: their names in transformers and in files behind the architecture's.</summary>
    public IReadOnlyList<(string Tree, string File)> Numbers { get; init; } = [];

    /// <summary>Names outside the layers, without <c>.weight</c> or <c>.bias</c>.</summary>
    public IReadOnlyDictionary<string, string> Whole { get; init; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["token_embd"] = "model.embed_tokens",
        ["output_norm"] = "model.norm",
        ["output"] = "lm_head",
    };

    /// <summary>Names inside a layer.</summary>
    public IReadOnlyDictionary<string, string> InLayer { get; init; } = LayerNames(("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"));

    /// <summary>Names inside a layer of Llama's projections.</summary>
    /// <param name="norms">Those of its norms: in the file, in the tree.</param>
    public static IReadOnlyDictionary<string, string> LayerNames(params (string File, string Tree)[] norms)
    {
        Dictionary<string, string> names = new(StringComparer.Ordinal)
        {
            ["attn_q"] = "self_attn.q_proj",
            ["attn_k"] = "self_attn.k_proj",
            ["attn_v"] = "self_attn.v_proj",
            ["attn_q_norm"] = "self_attn.q_norm",
            ["attn_k_norm"] = "self_attn.k_norm",
            ["attn_output"] = "self_attn.o_proj",
            ["ffn_gate"] = "mlp.gate_proj",
            ["ffn_up"] = "mlp.up_proj",
            ["ffn_down"] = "mlp.down_proj",
        };
        foreach (var (file, tree) in norms)
        {
            names.Add(file, tree);
        }

        return names;
    }
}
