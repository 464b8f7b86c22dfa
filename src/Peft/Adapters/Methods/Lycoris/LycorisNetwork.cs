using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>A LyCORIS network on a model: what the files of kohya's scripts, LyCORIS, the web UI and diffusers become, and what is trained by its algorithms.</summary>
public sealed class LycorisNetwork(string name, LycorisNetworkConfig config) : LayerwiseAdapter(name, config)
{
    private bool _isAimed;

    /// <summary>The configuration.</summary>
    private LycorisNetworkConfig Network => (LycorisNetworkConfig)base.Config;

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        _isAimed = Network.TargetModules is null && LycorisPreset.Knows(model);
        Config = Network.Modules is null ? Network.Aimed(model) : Network;

        base.Declare(model, messages);
        Config = Network with { Modules = Layers.ToDictionary(static layer => layer.Layer.Path, layer => Network.ModuleOf(layer.Layer)) };
        foreach (var layer in Layers)
        {
            if (Network.Modules![layer.Layer.Path].Alpha is { } alpha)
            {
                var number = new Parameter(LycorisModule.AlphaKey, []);
                number.Assign(tensor((float)alpha, device: Device));
                Shared.Add(new AdapterParameter(KeyOf(layer.Path, LycorisModule.AlphaKey), number, ParameterRole.Frozen, layer.Layer.Module));
            }
        }
    }

    /// <inheritdoc/>
    private protected override IReadOnlyList<IAdaptable> Targets(PretrainedModel model, ICollection<string> messages) => Network.Modules is { } modules
        ? [.. model.Descendants().Where(module => modules.ContainsKey(module.Path)).Select(AdaptableOf)]
        : [.. base.Targets(model, messages), .. Network.TrainsNorms ? Network.Norms(model, _isAimed).Select(AdaptableOf) : []];

    /// <summary>What a network can act on in a module: a layer, or a norm.</summary>
    internal static IAdaptable AdaptableOf(Module module) => Find(module) ?? throw new PeftException("TargetKindNotSupported", $"'{module.Path}' is a {module.ClassName}, which no LyCORIS algorithm adapts.")
    {
        Target = module.Path,
        RecommendedAction = "Target the layers inside it.",
    };

    /// <summary>The same, or null.</summary>
    internal static IAdaptable? Find(Module module) => module switch
    {
        Linear or Convolution => (IAdaptable)module,
        INorm norm => norm.Scale,
        _ => null,
    };
}
