using System.Text.Json.Nodes;
using Peft.Adapters.Files;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>What the configurations of LoHa and LoKr share. Defaults are PEFT's.</summary>
public abstract record LycorisConfig : AdapterConfig
{
    /// <summary>Rank (<c>r</c>); 8.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>The change is scaled by alpha / rank; 8.</summary>
    public double Alpha { get; init; } = 8;

    /// <summary>Probability with which a row of the change is dropped in training; 0.</summary>
    public double RankDropout { get; init; }

    /// <summary>Probability with which a layer's change is left out in training; 0.</summary>
    public double ModuleDropout { get; init; }

    /// <summary>Other ranks for some layers.</summary>
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Other alphas for some layers.</summary>
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Whether convolutions get a decomposition of their own (<c>use_effective_conv2d</c>).</summary>
    public bool UseEffectiveConvolution { get; init; }

    /// <summary>Whether rows that rank dropout leaves are scaled up to keep the mean.</summary>
    internal abstract bool ScalesRankDropout { get; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RefuseRanks(RankPattern.Values.Prepend(Rank));
    }

    /// <summary>Rank and scale of a layer, patterns applied.</summary>
    internal (int Rank, double Scale) ForLayer(string path)
    {
        var rank = TargetMatcher.Lookup(RankPattern, path, Rank);
        return (rank, TargetMatcher.Lookup(AlphaPattern, path, Alpha) / rank);
    }

    /// <summary>Takes the keys that both methods share.</summary>
    private protected AdapterConfig WithRanks(ConfigReader reader) => (this with
    {
        Rank = reader.Integer("r", 8),
        Alpha = reader.Number("alpha", 8),
        RankDropout = reader.Number("rank_dropout", 0),
        ModuleDropout = reader.Number("module_dropout", 0),
        RankPattern = reader.IntegersByName("rank_pattern"),
        AlphaPattern = reader.Numbers("alpha_pattern"),
        UseEffectiveConvolution = reader.Flag("use_effective_conv2d"),
    }).WithShared(reader);

    /// <inheritdoc/>
    protected override void Write(JsonObject fields)
    {
        WriteTargets(fields);
        WriteLayers(fields);
        fields["r"] = Rank;
        fields["alpha"] = Number(Alpha);
        fields["rank_dropout"] = Real(RankDropout);
        fields["module_dropout"] = Real(ModuleDropout);
        fields["rank_pattern"] = Json(RankPattern);
        fields["alpha_pattern"] = Json(AlphaPattern);
        fields["use_effective_conv2d"] = UseEffectiveConvolution;
    }
}

/// <summary>A layer whose weight changes by a matrix that a few small ones make.</summary>
internal abstract class LycorisLayer(IAdaptable layer, LycorisConfig config, double scale) : LayerAdapter
{
    /// <summary>The adapted layer.</summary>
    protected IAdaptable Layer { get; } = layer;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var training = call.Context.IsTraining;
        if (training && config.ModuleDropout > 0)
        {
            using var drawn = empty(1, device: y.device).uniform_(0, 1, call.Context.Generator);
            if (drawn.item<float>() <= config.ModuleDropout)
            {
                return y;
            }
        }

        var change = Product(x) * (scale * call.Weight);
        return y + (training && config.RankDropout > 0 ? change * KeptRows(y, call.Context.Generator) : change);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current)
    {
        current.Weight.add_(Layer.FromMatrix(Change(current.Weight.dtype)), alpha: scale);
        return current;
    }

    /// <summary>The layer's map of x with the change for a weight, without the scale.</summary>
    protected virtual Tensor Product(Tensor x) => Layer.Apply(x, Layer.FromMatrix(Change(x.dtype)), null);

    /// <summary>The change [out, in · kernel] without the scale.</summary>
    protected abstract Tensor Change(ScalarType type);

    /// <summary>Kaiming's uniform start with a = √5: ±1/√(elements of a row).</summary>
    protected Tensor Uniform(Parameter parameter, Generator generator) =>
        RandomTensors.Uniform(parameter.Shape, 1 / Math.Sqrt(parameter.Shape[1]), generator, Layer.Device);

    /// <summary>Zeros.</summary>
    protected Tensor Zeros(Parameter parameter) => RandomTensors.Zeros(parameter.Shape, Layer.Device);

    /// <summary>A row of the change is a column of the output.</summary>
    private Tensor KeptRows(Tensor y, Generator? generator)
    {
        var kept = empty([Layer.Outputs], device: y.device).uniform_(0, 1, generator).gt(config.RankDropout).to(y.dtype);
        return config.ScalesRankDropout ? kept / kept.mean() : kept;
    }
}
