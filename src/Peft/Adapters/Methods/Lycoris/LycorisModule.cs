using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>
/// What a LyCORIS network has on one module: the shapes of its tensors by key, and its alpha. The keys say the algorithm and the shapes the rest, so that
/// a file may mix algorithms, ranks and alphas.
/// </summary>
/// <param name="Shapes">Sizes of the tensors by key, such as <c>lora_down.weight</c>.</param>
public sealed record LycorisModule(IReadOnlyDictionary<string, IReadOnlyList<long>> Shapes)
{
    /// <summary>The change is multiplied by alpha / rank; null for 1. For OFT and BOFT the limit of the rotations.</summary>
    public double? Alpha { get; init; }

    /// <summary>Whether (IA)³ has a factor for each input.</summary>
    public bool IsByInput { get; init; }

    /// <summary>Ranks of a block that DyLoRA trains; null for LoRA. A file doesn't say it.</summary>
    public int? BlockSize { get; init; }

    /// <summary>Which ranks of T-LoRA act at a timestep; null for all of them. A file doesn't say it.</summary>
    public TimestepMask? Mask { get; init; }

    /// <summary>The end of a key that every algorithm may have: the tensor is a number.</summary>
    internal const string AlphaKey = "alpha";

    /// <summary>(IA)³'s mark of a factor for each input.</summary>
    internal const string InputMark = "on_input";

    /// <summary>Every key there is below a module, longest first, so that the first that ends a name is meant.</summary>
    internal static IReadOnlyList<string> Keys { get; } =
    [
        .. new[]
        {
            "lora_down.weight", "lora_up.weight", "lora_mid.weight", "dora_scale", AlphaKey,
            "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
            "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
            "oft_blocks", "rescale", "a1.weight", "a2.weight", "b1.weight", "b2.weight",
            "q_layer.weight", "p_layer.weight", "lambda_layer", "diff", "diff_b", "w_norm", "b_norm", "weight", InputMark,
        }.OrderByDescending(static key => key.Length),
    ];

    /// <summary>Whether something is known to act here.</summary>
    internal bool IsKnown => Has("lora_down.weight", "lora_up.weight") || Has("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        || ((Has("lokr_w1") || Has("lokr_w1_a", "lokr_w1_b")) && (Has("lokr_w2") || Has("lokr_w2_a", "lokr_w2_b")))
        || Has("oft_blocks") || Has("a1.weight", "a2.weight", "b1.weight", "b2.weight")
        || Has("lambda_layer", "p_layer.weight", "q_layer.weight") || Has("diff") || Has("w_norm") || Has("weight", InputMark);

    /// <summary>LyCORIS's name of what acts here.</summary>
    public string Algorithm => this switch
    {
        _ when Has("lora_down.weight") => Has("lora_mid.weight") ? "locon with a core" : "locon",
        _ when Has("hada_w1_a") => "loha",
        _ when Has("lokr_w1") || Has("lokr_w1_a") => "lokr",
        _ when Has("oft_blocks") => Shapes["oft_blocks"].Count == 3 ? "diag-oft" : "boft",
        _ when Has("a1.weight") => "glora",
        _ when Has("lambda_layer") => "tlora",
        _ when Has("diff") => "full",
        _ when Has("w_norm") => "norm",
        _ => "ia3",
    };

    /// <summary>Makes what acts on a layer, by shape alone. Where the layer has other sizes than the tensors, so has what is made.</summary>
    internal LayerAdapter CreateLayer(IAdaptable layer)
    {
        var inner = CreateInner(layer);
        return Shapes.TryGetValue("dora_scale", out var lengths) ? new DecomposedWeight(inner, lengths.Count <= 1 || lengths[0] == layer.Outputs) : inner;
    }

    private LayerAdapter CreateInner(IAdaptable layer)
    {
        if (Has("lora_down.weight"))
        {
            var rank = Rank("lora_down.weight");
            var config = new LoraConfig { Rank = rank, Alpha = Alpha ?? rank };
            return Has("lora_mid.weight") ? new CoreLora(layer, rank, (Alpha ?? rank) / rank)
                : BlockSize is { } size && rank % size == 0 ? new DynamicLora(layer, config, size)
                : new LycorisLora(layer, config);
        }

        if (Has("hada_w1_a"))
        {
            var rank = Rank("hada_w1_b");
            return new LoHaLayer(layer, new LoHaConfig { Rank = rank, Alpha = Alpha ?? rank, UseEffectiveConvolution = Has("hada_t1") });
        }

        return Has("lokr_w1") || Has("lokr_w1_a") ? CreateLoKr(layer)
            : Has("oft_blocks") ? new OutputRotation(layer, Shapes["oft_blocks"], Alpha ?? 0, Has("rescale"))
            : Has("a1.weight") ? new WeightProduct(layer, Rank("a2.weight"), Scale("a2.weight"))
            : Has("lambda_layer") ? new SingularLora(layer, Rank("q_layer.weight"), Scale("q_layer.weight"), Mask)
            : Has("diff") ? new DifferenceLayer(layer, "diff", Has("diff_b") ? "diff_b" : null)
            : Has("w_norm") ? new DifferenceLayer(layer, "w_norm", Has("b_norm") ? "b_norm" : null)
            : new ScaledWeight(layer, IsByInput);
    }

    /// <summary>Two whole factors have no scale, whatever the alpha.</summary>
    private LoKrLayer CreateLoKr(IAdaptable layer)
    {
        var (isFirstLow, isSecondLow, hasCore) = (!Has("lokr_w1"), !Has("lokr_w2"), Has("lokr_t2"));
        var rank = isSecondLow ? Rank("lokr_w2_b") : isFirstLow ? Rank("lokr_w1_b") : 1;
        var (outFirst, inFirst) = isFirstLow ? (Size("lokr_w1_a", 0), Size("lokr_w1_b", 1)) : (Size("lokr_w1", 0), Size("lokr_w1", 1));
        var shape = new LoKrShape(outFirst, inFirst, Divided(layer.Outputs, outFirst), Divided(layer.Inputs / layer.ChannelGroups, inFirst))
        {
            FirstIsLowRank = isFirstLow,
            SecondIsLowRank = isSecondLow,
            HasCore = hasCore,
        };
        return new LoKrLayer(layer, new LoKrConfig { Rank = rank, Alpha = isFirstLow || isSecondLow ? Alpha ?? rank : rank }, shape);
    }

    private static long Divided(long size, long factor) => factor > 0 ? size / factor : 0;

    private double Scale(string key) => (Alpha ?? Rank(key)) / Rank(key);

    private int Rank(string key) => Shapes.TryGetValue(key, out var shape) && shape.Count > 0 ? checked((int)Math.Max(1, shape[0])) : 1;

    /// <summary>Where a tensor has fewer dimensions it doesn't fit what is made, whatever stands here.</summary>
    private long Size(string key, int dimension) => Shapes[key] is var shape && dimension < shape.Count ? shape[dimension] : 1;

    private bool Has(params ReadOnlySpan<string> keys)
    {
        foreach (var key in keys)
        {
            if (!Shapes.ContainsKey(key))
            {
                return false;
            }
        }

        return true;
    }
}
