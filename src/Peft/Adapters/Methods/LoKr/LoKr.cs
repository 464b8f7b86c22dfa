using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.LoKr;

/// <summary>LoKr (Yeh et al. 2024): the change is the Kronecker product of two matrices, each of them low-rank where that is smaller. Defaults are PEFT's.</summary>
public sealed record LoKrConfig : LycorisConfig
{
    /// <inheritdoc/>
    public override string PeftType => "LOKR";

    /// <summary>Decomposes the first matrix as well.</summary>
    [ConfigField("decompose_both")]
    public bool DecomposeBoth { get; init; }

    /// <summary>What sizes are divided by; -1 for divisors near the square root.</summary>
    [ConfigField("decompose_factor")]
    public int DecomposeFactor { get; init; } = -1;

    /// <summary>Scales rows that rank dropout leaves up to keep the mean.</summary>
    [ConfigField("rank_dropout_scale")]
    public bool RankDropoutScale { get; init; }

    /// <summary>How the matrices start: <c>true</c> with the first zero, <c>lycoris</c> with the last zero, <c>false</c> all at random (for tests).</summary>
    [ConfigField("init_weights", Parameter = "Initialization", Choices = ["true", "false", "lycoris"])]
    public LoKrInitialisation Initialisation { get; init; }

    /// <inheritdoc/>
    internal override bool ScalesRankDropout => RankDropoutScale;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) => layer switch
    {
        Linear or Convolution => new LoKrLayer(layer, this),
        Embedding => throw KindRefused(layer),
        _ => throw KindNotSupported(layer),
    };
}

/// <summary>How LoKr's matrices start.</summary>
public enum LoKrInitialisation
{
    /// <summary>The first matrix zero, all others uniform (<c>true</c>).</summary>
    Zero,

    /// <summary>All uniform, so that the output differs from the start; for tests (<c>false</c>).</summary>
    Random,

    /// <summary>The last matrix zero, all others uniform (<c>lycoris</c>).</summary>
    Lycoris,
}

/// <summary>The matrices of one layer: change = w1 ⊗ w2, with w1 [out₁, in₁] and w2 [out₂, in₂], or the factors of either.</summary>
internal sealed class LoKrLayer : LycorisLayer
{
    private readonly LoKrConfig _config;
    private readonly Parameter[] _first;
    private readonly Parameter[] _second;
    private readonly Parameter? _core;

    /// <summary>Makes the matrices as the configuration divides the layer, by shape alone.</summary>
    public LoKrLayer(IAdaptable layer, LoKrConfig config)
        : this(layer, config, LoKrShape.Of(layer, config))
    {
    }

    /// <summary>Makes matrices of given sizes.</summary>
    public LoKrLayer(IAdaptable layer, LoKrConfig config, LoKrShape shape)
        : base(layer, config)
    {
        _config = config;
        var rank = config.ForLayer(layer.Path).Rank;
        _first = Make("lokr_w1", shape.OutFirst, shape.InFirst, rank, shape.FirstIsLowRank);
        _core = shape.HasCore ? new Parameter("lokr_t2", config.Core(layer, rank) ?? [rank, rank, .. layer.Kernel]) : null;
        _second = _core is not null ? [new Parameter("lokr_w2_a", [rank, shape.OutSecond]), new Parameter("lokr_w2_b", [rank, shape.InSecond])]
            : shape.SecondIsLowRank ? Make("lokr_w2", shape.OutSecond, layer.Kernel.Aggregate(shape.InSecond, static (all, size) => all * size), rank, decomposed: true)
            : [new Parameter("lokr_w2", [shape.OutSecond, shape.InSecond, .. layer.Kernel])];
        Parameters = [.. All.Select(static factor => new LayerParameter(factor.Name, factor))];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    private IEnumerable<Parameter> All => _core is null ? _first.Concat(_second) : _first.Concat(_second).Append(_core);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var factor in All)
        {
            var startsAtZero = _config.Initialisation switch
            {
                LoKrInitialisation.Zero => factor == _first[0],
                LoKrInitialisation.Lycoris => factor == _second[^1],
                _ => false,
            };
            factor.Assign(startsAtZero ? Zeros(factor) : Uniform(factor, generator));
        }
    }

    /// <summary>(w1 ⊗ w2) x, for a linear layer without forming the product: w2 on the inner index of x, w1 on the outer.</summary>
    protected override Tensor Product(Tensor x)
    {
        if (Layer.Kernel.Count > 0)
        {
            return base.Product(x);
        }

        Tensor outer = Matrix(_first).to(x.dtype), inner = Inner().to(x.dtype);
        var parts = x.reshape(-1, inner.shape[1]).mm(inner.t()).view(-1, outer.shape[1], inner.shape[0]);
        return outer.unsqueeze(0).expand(parts.size(0), -1, -1).bmm(parts).reshape([.. x.shape[..^1], Layer.Outputs]);
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type)
    {
        Tensor outer = Matrix(_first).to(type), inner = Inner().to(type);
        return (outer.unsqueeze(1).unsqueeze(3) * inner.unsqueeze(0).unsqueeze(2)).reshape(Layer.Outputs, Layer.Columns);
    }

    /// <summary>w2 as a matrix, a convolution's kernel behind its inputs.</summary>
    private Tensor Inner() => _core is null ? Matrix(_second) : WithCore(_core.Data, _second[0].Data, _second[1].Data);

    private static Parameter[] Make(string name, long outputs, long inputs, int rank, bool decomposed) => decomposed
        ? [new Parameter(name + "_a", [outputs, rank]), new Parameter(name + "_b", [rank, inputs])]
        : [new Parameter(name, [outputs, inputs])];

    private static Tensor Matrix(Parameter[] factors) => factors.Length == 1 ? factors[0].Data.flatten(1) : factors[0].Data.mm(factors[1].Data);
}

/// <summary>How a layer's weight is divided into two Kronecker factors, and which of them are products of a low rank.</summary>
/// <param name="OutFirst">Outputs of the first.</param>
/// <param name="InFirst">Inputs of the first.</param>
/// <param name="OutSecond">Outputs of the second.</param>
/// <param name="InSecond">Inputs of the second, of one group.</param>
internal sealed record LoKrShape(long OutFirst, long InFirst, long OutSecond, long InSecond)
{
    /// <summary>Whether the first is such a product.</summary>
    public bool FirstIsLowRank { get; init; }

    /// <summary>Whether the second is.</summary>
    public bool SecondIsLowRank { get; init; }

    /// <summary>Whether a core stands between the second's factors.</summary>
    public bool HasCore { get; init; }

    /// <summary>As a configuration divides a layer.</summary>
    public static LoKrShape Of(IAdaptable layer, LoKrConfig config)
    {
        var rank = config.ForLayer(layer.Path).Rank;
        var (inFirst, inSecond) = Factors(layer.Inputs / layer.ChannelGroups, config.DecomposeFactor);
        var (outFirst, outSecond) = Factors(layer.Outputs, config.DecomposeFactor);
        var isLowRank = rank < Math.Max(outSecond, inSecond) / 2.0;
        return new LoKrShape(outFirst, inFirst, outSecond, inSecond)
        {
            FirstIsLowRank = config.DecomposeBoth && rank < Math.Max(outFirst, inFirst) / 2.0,
            SecondIsLowRank = isLowRank,
            HasCore = isLowRank && config.Core(layer, rank) is not null,
        };
    }

    /// <summary>Splits a size into two divisors, the first no larger than the second: the factor itself where it divides, else the pair nearest to a square below it.</summary>
    internal static (long Small, long Large) Factors(long size, int factor)
    {
        if (factor > 0 && size % factor == 0)
        {
            return (factor, size / factor);
        }

        long limit = factor == -1 ? size : factor, small = 1;
        for (var divisor = 2L; divisor <= limit && divisor <= size / divisor; divisor++)
        {
            small = size % divisor == 0 ? divisor : small;
        }

        return (small, size / small);
    }
}
