using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>What an initialisation starts from.</summary>
/// <param name="Layer">The layer.</param>
/// <param name="ShapeA">Shape of A: [rank, in], and the kernel behind it in a convolution.</param>
/// <param name="ShapeB">Shape of B: [out, rank], and ones behind it in a convolution.</param>
/// <param name="Scale">What the change is scaled by.</param>
/// <param name="Generator">Source of random numbers.</param>
internal sealed record LoraStart(IAdaptable Layer, IReadOnlyList<long> ShapeA, IReadOnlyList<long> ShapeB, double Scale, Generator Generator)
{
    /// <summary>How LoftQ quantises.</summary>
    public JsonNode? Loftq { get; init; }

    /// <summary>Rank of the factors.</summary>
    public long Rank => ShapeA[0];

    /// <summary>The layer's weight as a float32 matrix [out, in].</summary>
    /// <exception cref="PeftException"><c>WeightsPacked</c>.</exception>
    public Tensor Weight => Layer.Weight.Packed is { } form
        ? throw new PeftException("WeightsPacked", $"This start (init_lora_weights) is made from the plain weights of '{Layer.Path}', but they are quantised ({form.Kind}).")
        {
            Target = Layer.Path,
            RecommendedAction = "Import the model without quantisation, or leave init_lora_weights out: a start of zero is for every base.",
        }
        : Layer.ToMatrix(Layer.Weight.Data).to(ScalarType.Float32);

    /// <summary>What data decided, where they were asked.</summary>
    public DataStart? Data { get; init; }

    /// <summary>The factors that data decided; the usual ones of a layer that they say nothing of.</summary>
    /// <exception cref="PeftException"><c>StartNeedsData</c>.</exception>
    public (Tensor A, Tensor B) FromData() => Data is null
        ? throw new PeftException("StartNeedsData", $"The start of '{Layer.Path}' is decided by data, and none was given.") { Target = "init_lora_weights" }
        : Data.For(Layer.Path) is var (a, b) ? (a, b ?? ZeroB())
        : (UniformA(), ZeroB());

    /// <summary>A uniform in ±1/√(in · kernel), PyTorch's own start of a layer.</summary>
    public Tensor UniformA() => RandomTensors.Uniform(ShapeA, 1 / Math.Sqrt(ShapeA.Skip(1).Aggregate(static (all, size) => all * size)), Generator, Layer.Device);

    /// <summary>B zero, so that training starts from the base's output.</summary>
    public Tensor ZeroB() => RandomTensors.Zeros(ShapeB, Layer.Device);
}

/// <summary>How LoRA's factors start: A [rank, in] and B [out, rank].</summary>
/// <param name="Factors">Makes the factors.</param>
/// <param name="LeavesResidual">Whether scale · B · A of the start is taken out of the base's weight, so that the output stays what it was.</param>
internal sealed record LoraInitialisation(Func<LoraStart, (Tensor A, Tensor B)> Factors, bool LeavesResidual = false)
{
    /// <summary>What the start makes of the base's weight, [out, in] in float32, by the settings of LoftQ and the rank, where that is another than to take the start out of it; null for nothing.</summary>
    public Func<JsonNode?, long, Tensor, Tensor>? Base { get; init; }

    /// <summary>Whether data decide the start, so that it can't be made again from the base alone.</summary>
    public bool NeedsData { get; init; }

    /// <summary>Whether B stays as it starts.</summary>
    public bool FreezesB { get; init; }

    /// <summary>Whether the start asks for the base's weight as a plain matrix.</summary>
    public bool Decomposes => LeavesResidual || Base is not null || FreezesB;

    /// <summary>A uniform, B zero.</summary>
    public const string Zero = "true";

    /// <summary>A and B both uniform, so that the output differs from the start; for tests.</summary>
    public const string Random = "false";

    private const string NiterPrefix = "pissa_niter_";

    /// <summary>The initialisations there are, by PEFT's names: one line each.</summary>
    private static readonly Dictionary<string, LoraInitialisation> s_known = new(StringComparer.Ordinal)
    {
        [Zero] = new(static start => (start.UniformA(), start.ZeroB())),
        [Random] = new(static start => (start.UniformA(), RandomTensors.Uniform(start.ShapeB, 1 / Math.Sqrt(start.ShapeB[1]), start.Generator, start.Layer.Device))),
        ["corda"] = new(static start => start.FromData(), LeavesResidual: true) { NeedsData = true },
        ["eva"] = new(static start => start.FromData()) { NeedsData = true },
        ["gaussian"] = new(static start => (RandomTensors.Normal(start.ShapeA, 1.0 / start.Rank, start.Generator, start.Layer.Device), start.ZeroB())),
        ["loftq"] = new(Loftq) { Base = static (settings, rank, weight) => LoftqStart.From(settings).Run(weight, rank).Base },
        ["lora_ga"] = new(static start => start.FromData(), LeavesResidual: true) { NeedsData = true },
        ["mica"] = new(Mica) { FreezesB = true },
        ["olora"] = new(Olora, LeavesResidual: true),
        ["orthogonal"] = new(Orthogonal),

        // In float64: the part that was taken out of the base is formed again whenever such an adapter is loaded, and errors add up there.
        ["pissa"] = new(static start => Pissa(start, linalg.svd(start.Weight.to(ScalarType.Float64), fullMatrices: false)), LeavesResidual: true),
    };

    /// <summary>The names of all, as <c>init_lora_weights</c> has them.</summary>
    public static IReadOnlyCollection<string> Names => s_known.Keys;

    /// <summary>The initialisation of a name.</summary>
    /// <exception cref="PeftException"><c>InitialisationUnknown</c>.</exception>
    public static LoraInitialisation Of(string name)
    {
        if (s_known.TryGetValue(name, out var known))
        {
            return known;
        }

        if (name.StartsWith(NiterPrefix, StringComparison.Ordinal) && int.TryParse(name.AsSpan(NiterPrefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var iterations))
        {
            return new LoraInitialisation(start => Pissa(start, SingularVectors.Leading(start.Weight, start.Rank, iterations, start.Generator)), LeavesResidual: true);
        }

        throw new PeftException("InitialisationUnknown", $"'{name}' is no initialisation of LoRA; init_lora_weights can be {string.Join(", ", s_known.Keys)} or {NiterPrefix}N.") { Target = "init_lora_weights" };
    }

    /// <summary>That of an embedding, the other way round than other layers: A is zero, B normal; nn.Embedding's own start where neither is to be zero.</summary>
    public static LoraInitialisation OfEmbedding(string name) => new(start => (
        name == Random ? RandomTensors.Normal(start.ShapeA, 1, start.Generator, start.Layer.Device) : RandomTensors.Zeros(start.ShapeA, start.Layer.Device),
        RandomTensors.Normal(start.ShapeB, 1, start.Generator, start.Layer.Device)));

    /// <summary>PiSSA (Meng et al. 2024): the leading singular vectors of the weight, each factor with the roots of the singular values.</summary>
    private static (Tensor A, Tensor B) Pissa(LoraStart start, (Tensor U, Tensor S, Tensor Vh) decomposition)
    {
        var (u, s, vh) = decomposition;
        var roots = s.narrow(0, 0, start.Rank).div(start.Scale).sqrt();
        return (vh.narrow(0, 0, start.Rank).mul(roots.unsqueeze(1)).to(start.Weight.dtype), u.narrow(1, 0, start.Rank).mul(roots).to(start.Weight.dtype));
    }

    /// <summary>LoftQ: the leading part of what quantising the weight loses.</summary>
    private static (Tensor A, Tensor B) Loftq(LoraStart start)
    {
        var (_, a, b) = LoftqStart.From(start.Loftq).Run(start.Weight, start.Rank);
        return (a, b);
    }

    /// <summary>MiCA: B the left singular vectors of the smallest singular values, which stays, and A zero.</summary>
    private static (Tensor A, Tensor B) Mica(LoraStart start)
    {
        // The base stays as it is, so that a quantised one will do.
        var u = linalg.svd(start.Layer.ToMatrix(start.Layer.Weight.Unpacked(ScalarType.Float32)), fullMatrices: false).U;
        return (RandomTensors.Zeros(start.ShapeA, start.Layer.Device), u.narrow(1, u.size(1) - start.Rank, start.Rank).contiguous());
    }

    /// <summary>A and B random with B A zero: each is made of its own half of the rows of one orthogonal matrix.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>: the rank is odd.</exception>
    private static (Tensor A, Tensor B) Orthogonal(LoraStart start)
    {
        if (start.Rank % 2 != 0)
        {
            throw new PeftException("AdapterConfigContradictory", $"The orthogonal start needs an even rank, and '{start.Layer.Path}' has {start.Rank}.") { Target = start.Layer.Path };
        }

        var halves = linalg.qr(Normal(start.Rank, start.Rank)).Q.view(start.Rank / 2, 2, start.Rank);
        return (
            Normal(start.Layer.Inputs, start.Rank / 2).mm(halves.select(1, 0)).t().mul(0.1).contiguous(),
            Normal(start.Layer.Outputs, start.Rank / 2).mm(halves.select(1, 1)).mul(0.1));

        Tensor Normal(long rows, long columns) => RandomTensors.Normal([rows, columns], 1, start.Generator, start.Layer.Device);
    }

    /// <summary>OLoRA (Büyükakyüz 2024): the first columns and rows of the weight's QR factors.</summary>
    private static (Tensor A, Tensor B) Olora(LoraStart start)
    {
        var (q, r) = linalg.qr(start.Weight);
        return (r.narrow(0, 0, start.Rank).contiguous(), q.narrow(1, 0, start.Rank).contiguous());
    }
}
