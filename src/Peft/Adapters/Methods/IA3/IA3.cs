using Peft.Adapters.Combination;
using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.IA3;

/// <summary>
/// IA3 (Liu et al. 2022): one learned factor for each output of attention projections and for each input of feed-forward layers.
/// Defaults are PEFT's.
/// </summary>
[ConfigWithout("layers_to_transform", "layers_pattern")]
public sealed record IA3Config : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "IA3";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.IA3;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Those of the targets whose input is scaled; without it, the defaults of the base's family.</summary>
    [ConfigField("feedforward_modules", Parameter = "FeedforwardModule")]
    public ModuleNames? FeedforwardModules { get; init; }

    /// <summary>Whether factors start at one; false starts them at random, for tests.</summary>
    [ConfigField("init_ia3_weights")]
    public bool StartAtOne { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (FeedforwardModules?.Names is { } names && TargetModules?.Names is { } targets && names.Except(targets).FirstOrDefault() is { } stray)
        {
            throw Contradiction($"feedforward_modules has to be a part of target_modules, which lacks '{stray}'.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new IA3Adapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) => layer is Linear or Convolution
        ? new IA3Layer(layer, TargetMatcher.EndsIn(FeedforwardModules!, layer.Path), StartAtOne)
        : throw KindNotSupported(layer);
}

/// <summary>IA3 on a model.</summary>
public sealed class IA3Adapter(string name, IA3Config config) : LayerwiseAdapter(name, config)
{
    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        var given = (IA3Config)Config;
        Config = given with { FeedforwardModules = given.FeedforwardModules ?? DefaultTargets.IA3Feedforward.GetValueOrDefault(model.Config.ModelType) ?? ModuleNames.Of() };
        base.Declare(model, messages);
    }

    /// <summary>The first part's, with the targets of all.</summary>
    public override AdapterConfig CombinedConfig(IReadOnlyList<AdapterPart> parts, CombinationOptions options)
    {
        IA3Config[] configs = [.. parts.Select(static part => (IA3Config)part.Adapter.Config)];
        return configs[0] with
        {
            TargetModules = ModuleNames.Union([.. configs.Select(static config => config.TargetModules!)]),
            FeedforwardModules = ModuleNames.Union([.. configs.Select(static config => config.FeedforwardModules!)]),
        };
    }

    /// <summary>Factors become the weighted sum of the parts' factors, as with PEFT; a part without a layer adds nothing there.</summary>
    public override void Combine(IReadOnlyList<AdapterPart> parts, CombinationOptions options, Generator generator, CancellationToken cancellation)
    {
        base.Combine(parts, options, generator, cancellation);
        foreach (var (layer, adapter) in Layers)
        {
            var factors = adapter.Parameters[0].Parameter;
            factors.Data.zero_();
            foreach (var part in parts)
            {
                if (part.On(layer.Path) is { } own)
                {
                    factors.Data.add_(own.Parameters[0].Parameter.Data, alpha: part.Weight);
                }
            }

            factors.MarkChanged();
        }
    }
}

/// <summary>The factors of one layer.</summary>
internal sealed class IA3Layer : LayerAdapter
{
    private readonly bool _scalesInput;
    private readonly bool _startsAtOne;
    private readonly Parameter _factors;

    /// <summary>Makes the factors, by shape alone: [1, in] or [out, 1]; [1, in or out, 1, …] of a convolution.</summary>
    public IA3Layer(IAdaptable layer, bool scalesInput, bool startsAtOne)
        : base(layer)
    {
        _scalesInput = scalesInput;
        _startsAtOne = startsAtOne;
        var along = scalesInput ? layer.InputShape : layer.OutputShape;
        _factors = new Parameter("ia3_l", layer.Kernel.Count > 0 ? along : scalesInput ? [1, layer.Inputs] : [layer.Outputs, 1]);
        Parameters = [new("ia3_l", _factors)];
    }

    /// <inheritdoc/>
    public override bool ChangesInput => _scalesInput;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var device = Layer.Device;
        _factors.Assign(_startsAtOne ? ones([.. _factors.Shape], device: device) : RandomTensors.Normal(_factors.Shape, 1, generator, device));
    }

    /// <inheritdoc/>
    public override Tensor Before(Tensor x, SlotCall call) => Scale(x, call);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => _scalesInput ? y : Scale(y, call);

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var vector = _factors.Data.flatten().to(current.Weight.dtype);
        var matrix = Layer.ToMatrix(current.Weight);
        if (!_scalesInput)
        {
            return new Affine(Layer.FromMatrix(matrix * vector.unsqueeze(1)), current.Bias?.mul_(vector));
        }

        // Each group of outputs has the factors of its own inputs.
        var groups = matrix.reshape(Layer.ChannelGroups, Layer.Outputs / Layer.ChannelGroups, Layer.Inputs / Layer.ChannelGroups, -1) * vector.view(Layer.ChannelGroups, 1, -1, 1);
        return current with { Weight = Layer.FromMatrix(groups.reshape(matrix.shape)) };
    }

    private Tensor Scale(Tensor values, SlotCall call)
    {
        var vector = _scalesInput ? Layer.AlongInputs(_factors.Data) : Layer.AlongOutputs(_factors.Data);
        return values * (call.Weight == 1f ? vector : ((vector - 1) * call.Weight) + 1).to(values.dtype);
    }
}
