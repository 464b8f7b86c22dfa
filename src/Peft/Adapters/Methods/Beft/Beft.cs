using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Beft;

/// <summary>BEFT (2025): a bias is added to a few projections, the values' by default, and nothing else is trained. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern")]
public sealed record BeftConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "BEFT";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.ValueProjections;

    /// <summary>Whether the bias starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        if (layer.Bias is null && adapter.Layers.All(static earlier => earlier.Layer.Bias is not null))
        {
            messages.Add($"'{layer.Path}' has no bias of its own: the adapter can't be merged.");
        }

        return new BeftLayer(layer, StartAtZero);
    }
}

/// <summary>The bias of one layer.</summary>
internal sealed class BeftLayer : LayerAdapter
{
    private readonly bool _startsAtZero;
    private readonly Parameter _bias;

    /// <summary>Makes the bias, by shape alone: [1, out].</summary>
    public BeftLayer(IAdaptable layer, bool startsAtZero)
        : base(layer)
    {
        _startsAtZero = startsAtZero;
        _bias = new Parameter("beft_bias", [1, layer.Outputs]);
        Parameters = [new("beft_bias", _bias)];
    }

    /// <inheritdoc/>
    public override string? MergeObstacle => Layer.Bias is null ? "a bias is merged into a layer that has one" : null;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator) => _bias.Assign(_startsAtZero
        ? RandomTensors.Zeros(_bias.Shape, Layer.Device)
        : RandomTensors.Normal(_bias.Shape, 1, generator, Layer.Device));

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => y + (_bias.Data.flatten().to(y.dtype) * call.Weight);

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        current.Bias!.add_(_bias.Data.flatten().to(current.Bias.dtype));
        return current;
    }
}
