using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>What the configurations of LoHa and LoKr share. Defaults are PEFT's.</summary>
public abstract record LycorisConfig : LayerwiseConfig
{
    /// <summary>Rank of the matrices.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>Strength of the change: it is multiplied by alpha / rank.</summary>
    [ConfigField("alpha")]
    public double Alpha { get; init; } = 8;

    /// <summary>Probability with which a row of the change is dropped in training.</summary>
    [ConfigField("rank_dropout", IsReal = true, Minimum = 0, Maximum = 1, ErrorId = "DropoutInvalid")]
    public double RankDropout { get; init; }

    /// <summary>Probability with which a layer's change is left out in training.</summary>
    [ConfigField("module_dropout", IsReal = true, Minimum = 0, Maximum = 1, ErrorId = "DropoutInvalid")]
    public double ModuleDropout { get; init; }

    /// <summary>Other ranks for some modules: a table of name, path ending or regular expression of whole name parts to rank; the first that matches counts.</summary>
    [ConfigField("rank_pattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Other alphas for some modules: a table of name, path ending or regular expression of whole name parts to alpha; the first that matches counts.</summary>
    [ConfigField("alpha_pattern")]
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Gives convolutions a decomposition of their own, with fewer parameters.</summary>
    [ConfigField("use_effective_conv2d", Parameter = "EffectiveConvolution")]
    public bool UseEffectiveConvolution { get; init; }

    /// <summary>The shape of what stands between the factors of a convolution that has a decomposition of its own, or null.</summary>
    internal IReadOnlyList<long>? Core(IAdaptable layer, int rank) => UseEffectiveConvolution && layer.Kernel.Any(static size => size != 1)
        ? [rank, rank, layer.Kernel[0], layer.Kernel.Count > 1 ? layer.Kernel[1] : 1]
        : null;

    /// <summary>Whether rows that rank dropout leaves are scaled up to keep the mean.</summary>
    internal abstract bool ScalesRankDropout { get; }

    /// <summary>Rank and scale of a layer, patterns applied.</summary>
    internal (int Rank, double Scale) ForLayer(string path)
    {
        var rank = TargetMatcher.Lookup(RankPattern, path, Rank);
        return (rank, TargetMatcher.Lookup(AlphaPattern, path, Alpha) / rank);
    }
}

/// <summary>A layer whose weight changes by a matrix that a few small ones make.</summary>
internal abstract class LycorisLayer(IAdaptable layer, LycorisConfig config) : LayerAdapter(layer)
{
    private readonly double _scale = config.ForLayer(layer.Path).Scale;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var training = call.Context.IsTraining;
        if (training && config.ModuleDropout > 0)
        {
            using var drawn = RandomDraws.Uniform([1], ScalarType.Float32, y.device, call.Context.Generator);
            if (drawn.item<float>() <= config.ModuleDropout)
            {
                return y;
            }
        }

        var change = Product(x) * (_scale * call.Weight);
        return y + (training && config.RankDropout > 0 ? change * Layer.AlongOutputs(KeptRows(y, call.Context.Generator)) : change);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        current.Weight.add_(Layer.FromMatrix(Change(current.Weight.dtype)), alpha: _scale);
        return current;
    }

    /// <summary>The layer's map of x with the change for a weight, without the scale.</summary>
    protected virtual Tensor Product(Tensor x) => Layer.Apply(x, Layer.FromMatrix(Change(x.dtype)), null);

    /// <summary>The change [out, in · kernel] without the scale.</summary>
    protected abstract Tensor Change(ScalarType type);

    /// <summary>The matrix [out, in · kernel] of a core [rank, rank, kernel] between factors [rank, out] and [rank, in] (LyCORIS' decomposition of a convolution).</summary>
    internal static Tensor WithCore(Tensor core, Tensor a, Tensor b)
    {
        var half = a.t().mm(core.flatten(1)).view(a.size(1), b.size(0), -1).transpose(1, 2);
        return half.reshape(-1, b.size(0)).mm(b).view(a.size(1), -1, b.size(1)).transpose(1, 2).reshape(a.size(1), -1);
    }

    /// <summary>Kaiming's uniform start with a = √5: ±1/√(elements of a row).</summary>
    protected Tensor Uniform(Parameter parameter, Generator generator) =>
        RandomTensors.Uniform(parameter.Shape, 1 / Math.Sqrt(parameter.Count / parameter.Shape[0]), generator, Layer.Device);

    /// <summary>Zeros.</summary>
    protected Tensor Zeros(Parameter parameter) => RandomTensors.Zeros(parameter.Shape, Layer.Device);

    /// <summary>A row of the change is a column of the output.</summary>
    private Tensor KeptRows(Tensor y, Generator? generator)
    {
        var kept = RandomDraws.Uniform([Layer.Outputs], ScalarType.Float32, y.device, generator).gt(config.RankDropout).to(y.dtype);
        return config.ScalesRankDropout ? kept / kept.mean() : kept;
    }
}
