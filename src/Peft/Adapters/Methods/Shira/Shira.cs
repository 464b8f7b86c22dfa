using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Shira;

/// <summary>SHiRA (Bhardwaj et al. 2024): a few entries of the weight, chosen once at random, are trained by themselves. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern")]
public sealed record ShiraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "SHIRA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("phi", ["q_proj", "v_proj"]));

    /// <summary>As many entries are trained as LoRA of this rank has parameters.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>How entries are chosen.</summary>
    [ConfigField("mask_type", Choices = ["random"])]
    public string MaskType { get; init; } = "random";

    /// <summary>Seed of the choice; without it another one each time. What was chosen is saved with the adapter.</summary>
    [ConfigField("random_seed", Minimum = 0)]
    public int? RandomSeed { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        return Rank * (layer.Inputs + layer.Outputs) <= layer.Inputs * layer.Outputs ? new ShiraLayer(layer, this) : throw new PeftException(
            "RankInvalid", $"The rank {Rank} would train more entries than the weight of '{layer.Path}' has.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a lower rank.",
        };
    }
}

/// <summary>The trained entries of one layer.</summary>
internal sealed class ShiraLayer : MatrixLayer
{
    private readonly ShiraConfig _config;
    private readonly Parameter _values;
    private readonly Parameter _places;

    /// <summary>Makes the entries, by shape alone: values [n], and their rows and columns [2, n].</summary>
    public ShiraLayer(IAdaptable layer, ShiraConfig config)
        : base(layer)
    {
        _config = config;
        var count = config.Rank * (layer.Inputs + layer.Outputs);
        _values = new Parameter("shira_weight", [count]);
        _places = new Parameter("shira_indices", [2, count], ScalarType.Int32);
        Parameters = [new("shira_weight", _values), new("shira_indices", _places, ParameterRole.Index)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _values.Assign(_config.StartAtZero ? RandomTensors.Zeros(_values.Shape, Layer.Device) : RandomTensors.Normal(_values.Shape, 1, generator, Layer.Device));
        using var seeded = _config.RandomSeed is { } seed ? new Generator((ulong)seed) : null;
        var chosen = randperm(Layer.Inputs * Layer.Outputs, ScalarType.Int64, generator: seeded ?? generator).narrow(0, 0, _values.Count).sort().Values;
        _places.Assign(stack([chosen.div(Layer.Inputs, RoundingMode.floor), chosen.remainder(Layer.Inputs)]).to(ScalarType.Int32).to(Layer.Device));
    }

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => true;

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var entries = _places.Data.to(ScalarType.Int64);
        var flat = entries.select(0, 0).mul(Layer.Inputs).add(entries.select(0, 1));
        return zeros([Layer.Outputs * Layer.Inputs], ScalarType.Float32, Layer.Device).index_add(0, flat, _values.Data, 1).view(Layer.Outputs, Layer.Inputs).to(type);
    }
}
