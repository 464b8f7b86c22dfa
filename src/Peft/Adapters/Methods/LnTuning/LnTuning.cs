using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.LnTuning;

/// <summary>LN tuning (Qi et al. 2022): the norms of a model, or other modules that are named, are trained in full, and nothing else. Defaults are PEFT's.</summary>
[ConfigWithout("layers_to_transform", "layers_pattern")]
public sealed record LnTuningConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "LN_TUNING";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.Norms;

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new LnTuningAdapter(name, this);

    /// <summary>Not asked for: the method replaces parameters and changes no layer's product.</summary>
    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) => throw KindRefused(layer);
}

/// <summary>LN tuning on a model: copies of the targets' parameters.</summary>
public sealed class LnTuningAdapter(string name, LnTuningConfig config) : Adapter(name, config)
{
    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        ArgumentNullException.ThrowIfNull(model);
        var config = (LnTuningConfig)Config;
        config = config with { TargetModules = TargetMatcher.Resolve(config, model) };
        Config = config;
        foreach (var (path, module) in TargetMatcher.Match(config with { ModulesToSave = SavedNames() }, model, messages))
        {
            foreach (var (full, parameter, holder) in module.NamedParameters())
            {
                AddOverlay([new OverlayTarget(path, $"ln_tuning_layers.{full[(path.Length + 1)..]}", holder, parameter)], OverlayKind.TunedModule);
            }
        }

        base.Declare(model, messages);
    }
}
