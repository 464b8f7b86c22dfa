using System.Text.Json.Nodes;
using Peft.Adapters.Combination;
using Peft.Adapters.Files;
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
public sealed record IA3Config : AdapterConfig
{
    /// <inheritdoc/>
    public override string PeftType => "IA3";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.IA3;

    /// <summary>Those of the targets whose input is scaled; null for the defaults of the base's family.</summary>
    public ModuleNames? FeedforwardModules { get; init; }

    /// <summary>Whether factors start at one (<c>init_ia3_weights</c>); false starts them at random, for tests.</summary>
    public bool StartAtOne { get; init; } = true;

    /// <summary>Reads the keys of a file.</summary>
    internal static AdapterConfig Read(ConfigReader reader) => new IA3Config
    {
        FanInFanOut = reader.Flag("fan_in_fan_out"),
        FeedforwardModules = reader.Names("feedforward_modules"),
        StartAtOne = reader.Flag("init_ia3_weights", otherwise: true),
    }.WithShared(reader);

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
    protected override void Write(JsonObject fields)
    {
        WriteTargets(fields);
        fields["fan_in_fan_out"] = FanInFanOut;
        fields["feedforward_modules"] = Json(FeedforwardModules);
        fields["init_ia3_weights"] = StartAtOne;
    }
}

/// <summary>IA3 on a model.</summary>
public sealed class IA3Adapter(string name, IA3Config config) : Adapter(name, config)
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

    /// <inheritdoc/>
    protected override LayerAdapter CreateLayer(IAdaptable layer, ICollection<string> messages)
    {
        var resolved = (IA3Config)Config;
        return layer is Linear
            ? new IA3Layer(layer, TargetMatcher.EndsIn(resolved.FeedforwardModules!, layer.Path), resolved.StartAtOne)
            : throw KindNotSupported(layer);
    }
}

/// <summary>The factors of one layer.</summary>
internal sealed class IA3Layer : LayerAdapter
{
    private readonly IAdaptable layer;
    private readonly bool scalesInput;
    private readonly bool startsAtOne;
    private readonly Parameter factors;

    /// <summary>Makes the factors, by shape alone: [1, in] or [out, 1].</summary>
    public IA3Layer(IAdaptable layer, bool scalesInput, bool startsAtOne)
    {
        this.layer = layer;
        this.scalesInput = scalesInput;
        this.startsAtOne = startsAtOne;
        factors = new Parameter("ia3_l", scalesInput ? [1, layer.Inputs] : [layer.Outputs, 1]);
        Parameters = [new("ia3_l", factors)];
    }

    /// <inheritdoc/>
    public override bool ChangesInput => scalesInput;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var device = layer.Device;
        factors.Assign(startsAtOne ? ones([.. factors.Shape], device: device) : RandomTensors.Normal(factors.Shape, 1, generator, device));
    }

    /// <inheritdoc/>
    public override Tensor Before(Tensor x, SlotCall call) => Scale(x, call);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => scalesInput ? y : Scale(y, call);

    /// <inheritdoc/>
    public override Affine Merge(Affine current)
    {
        var vector = factors.Data.flatten().to(current.Weight.dtype);

        // Along the inputs of [out, in] or the outputs of [in, out] a vector is spread as it is, along the first dimension as a column.
        var alongLast = scalesInput != layer.IsTransposed;
        current.Weight.mul_(alongLast ? vector : vector.unsqueeze(1));
        if (!scalesInput)
        {
            current.Bias?.mul_(vector);
        }

        return current;
    }

    private Tensor Scale(Tensor values, SlotCall call)
    {
        var vector = factors.Data.flatten();
        return values * (call.Weight == 1f ? vector : ((vector - 1) * call.Weight) + 1).to(values.dtype);
    }
}
