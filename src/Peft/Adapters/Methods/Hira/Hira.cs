using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Hira;

/// <summary>HiRA (Huang et al. 2025): the weight is multiplied, entry by entry, by a low-rank matrix and added, so that the change may have full rank. Defaults are PEFT's.</summary>
public sealed record HiraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "HIRA";

    /// <summary>Rank of the matrix.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("hira_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>How the matrix starts: <c>true</c> at zero, <c>gaussian</c> too but with a first factor drawn from a normal distribution, <c>false</c> at random (for tests).</summary>
    [ConfigField("init_weights", Parameter = "Initialization", Choices = ["true", "false", "gaussian"], ErrorId = "InitialisationUnknown")]
    public string Initialisation { get; init; } = "true";

    /// <summary>Other ranks for some modules: a table of name, path ending or regular expression of whole name parts to rank; the first that matches counts.</summary>
    [ConfigField("rank_pattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear or Embedding or Convolution { ChannelGroups: 1 } ? new HiraLayer(layer, this) : throw KindRefused(layer);
}

/// <summary>The factors of one layer: change = W ∘ (B A).</summary>
internal sealed class HiraLayer : MatrixLayer
{
    private readonly HiraConfig _config;
    private readonly Parameter _a;
    private readonly Parameter _b;

    /// <summary>Makes the factors, by shape alone: [rank, in] and [out, rank], with the kernel behind A's and as many ones behind B's where the layer has one.</summary>
    public HiraLayer(IAdaptable layer, HiraConfig config)
        : base(layer)
    {
        _config = config;
        var rank = TargetMatcher.Lookup(config.RankPattern, layer.Path, config.Rank);
        var prefix = layer is Embedding ? "hira_embedding_" : "hira_";
        _a = new Parameter($"{prefix}A", [rank, layer.Inputs, .. layer.Kernel]);
        _b = new Parameter($"{prefix}B", [layer.Outputs, rank, .. layer.Kernel.Select(static _ => 1L)]);
        Parameters = [new(_a.Name, _a), new(_b.Name, _b)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>An embedding starts the other way round than other layers: A is zero, B normal.</summary>
    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var isZero = _config.Initialisation != "false";
        _a.Assign(Layer is Embedding && isZero ? Zeros(_a)
            : _config.Initialisation == "true" ? RandomTensors.Uniform(_a.Shape, 1 / Math.Sqrt(_a.Count / _a.Shape[0]), generator, Layer.Device)
            : RandomTensors.Normal(_a.Shape, isZero ? 1.0 / _a.Shape[0] : 1, generator, Layer.Device));
        _b.Assign(Layer is not Embedding && isZero ? Zeros(_b) : RandomTensors.Normal(_b.Shape, 1, generator, Layer.Device));

        Tensor Zeros(Parameter factor) => RandomTensors.Zeros(factor.Shape, Layer.Device);
    }

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => !context.IsTraining || _config.Dropout == 0;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => base.After(
        call.Context.IsTraining && _config.Dropout > 0 && x.is_floating_point() ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x, y, call);

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare) => bare() * _b.Data.flatten(1).mm(_a.Data.flatten(1)).to(type);
}
