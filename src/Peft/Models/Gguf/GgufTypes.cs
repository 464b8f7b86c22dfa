using Peft.Tensors.Gguf;

namespace Peft.Models.Gguf;

/// <summary>Which of GGUF's types each weight is stored in: a type's name, or a mixture by llama.cpp's rules.</summary>
internal sealed class GgufTypes
{
    // What most weights have, what those that need more have, what gives the logits has, and llama.cpp's number for the whole file (general.file_type).
    private static readonly Dictionary<string, GgufTypes> s_all = new(StringComparer.OrdinalIgnoreCase)
    {
        ["F32"] = new("F32", "F32", "F32", 0),
        ["F16"] = new("F16", "F16", "F16", 1),
        ["Q4_0"] = new("Q4_0", "Q4_0", "Q6_K", 2),
        ["Q4_1"] = new("Q4_1", "Q4_1", "Q6_K", 3),
        ["Q8_0"] = new("Q8_0", "Q8_0", "Q8_0", 7),
        ["Q5_0"] = new("Q5_0", "Q5_0", "Q6_K", 8),
        ["Q5_1"] = new("Q5_1", "Q5_1", "Q6_K", 9),
        ["Q4_K_M"] = new("Q4_K", "Q6_K", "Q6_K", 15),
        ["Q5_K_M"] = new("Q5_K", "Q6_K", "Q6_K", 17),
        ["Q6_K"] = new("Q6_K", "Q6_K", "Q6_K", 18),
        ["BF16"] = new("BF16", "BF16", "BF16", 32),
    };

    // What is small or is added to what everything is computed from: llama.cpp leaves these alone, too.
    private static readonly string[] s_exact = ["_norm", "ffn_gate_inp", "position_embd", "shortconv.conv", "ssm_conv1d", ".ssm_a", ".ssm_beta", ".ssm_d", "per_layer_model_proj", "inp_gate", "altup"];

    private readonly string _usual;
    private readonly string _finer;
    private readonly string _output;

    private GgufTypes(string usual, string finer, string output, uint number) => (_usual, _finer, _output, Number) = (usual, finer, output, number);

    /// <summary>The names there are.</summary>
    public static IReadOnlyCollection<string> Names => s_all.Keys;

    /// <summary><c>general.file_type</c>.</summary>
    public uint Number { get; }

    /// <summary>The types of a name.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTypeNotSupported</c>.</exception>
    public static GgufTypes Named(string name) => s_all.TryGetValue(name, out var found) ? found
        : throw new NotSupportedByPeftException("GgufTypeNotSupported", $"'{name}' is no type in which Peft writes GGUF files.{Spelling.DidYouMean(name, Names)}")
        {
            Target = name,
            RecommendedAction = $"Choose one of {string.Join(", ", Names)}.",
        };

    /// <summary>The type of a weight.</summary>
    /// <param name="name">The name in the file.</param>
    /// <param name="shape">Its sizes.</param>
    /// <param name="layer">The layer it belongs to, and how many there are; null outside.</param>
    /// <param name="isOutput">Whether it gives the logits.</param>
    /// <returns>The type, and the one that it would have if its blocks filled a row.</returns>
    public (GgufType Type, GgufType Intended) Of(string name, IReadOnlyList<long> shape, (int Index, int Count)? layer, bool isOutput)
    {
        // Experts' biases are matrices, which llama.cpp adds in float32 alone.
        if (shape.Count < 2 || name.EndsWith(".bias", StringComparison.Ordinal) || s_exact.Any(part => name.Contains(part, StringComparison.Ordinal)))
        {
            return (GgufType.Named("F32"), GgufType.Named("F32"));
        }

        var needsMore = layer is { } place && NeedsMore(place.Index, place.Count)
            && (name.Contains("attn_v", StringComparison.Ordinal) || name.Contains("ffn_down", StringComparison.Ordinal));
        var intended = isOutput ? _output : needsMore ? _finer : _usual;
        return (Fitting(intended, shape[^1]), GgufType.Named(intended));
    }

    // The first and last eighth of the layers, and every third between them.
    private static bool NeedsMore(int layer, int layers) => layer < layers / 8 || layer >= 7 * layers / 8 || (layer - (layers / 8)) % 3 == 2;

    /// <summary>The type itself, or the nearest whose blocks divide a row.</summary>
    private static GgufType Fitting(string name, long width)
    {
        var type = GgufType.Named(name);
        if (width % type.BlockValues == 0)
        {
            return type;
        }

        return name switch
        {
            "Q4_K" => Fitting("Q5_0", width),
            "Q5_K" => Fitting("Q5_1", width),
            "Q6_K" => Fitting("Q8_0", width),
            _ => GgufType.Named("F16"),
        };
    }
}
