using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models.Layers;

namespace Peft.Adapters;

/// <summary>The configuration of a method that acts on layers, each for itself: which they are, and what else is trained.</summary>
/// <remarks>A method derives this, declares its fields, and makes what it puts on one layer.</remarks>
public abstract record LayerwiseConfig : AdapterConfig
{
    /// <summary>
    /// Modules to adapt: a name such as <c>q_proj</c>, the ending of a path such as <c>self_attn.q_proj</c>, or <c>all-linear</c> for every
    /// linear layer but the output head. Without it, the default modules of the model's family are taken.
    /// </summary>
    [ConfigField("target_modules", Parameter = "TargetModule", Position = 0)]
    public ModuleNames? TargetModules { get; init; }

    /// <summary>Modules to leave out although they are targeted, by name or ending of the path.</summary>
    [ConfigField("exclude_modules", Parameter = "ExcludeModule")]
    public ModuleNames? ExcludeModules { get; init; }

    /// <summary>Indices of the layers to adapt, counted from 0. Without it all layers are.</summary>
    [ConfigField("layers_to_transform", Parameter = "LayerIndex", Aliases = ["LayersToTransform"], Minimum = 0)]
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Name of the list of layers in module paths, such as <c>layers</c> or <c>h</c>, where <c>-LayerIndex</c> would otherwise be ambiguous.</summary>
    [ConfigField("layers_pattern")]
    public IReadOnlyList<string>? LayersPattern { get; init; }

    /// <summary>Modules that are trained in full and saved with the adapter, such as <c>lm_head</c> or <c>embed_tokens</c>.</summary>
    [ConfigField("modules_to_save", Aliases = ["ModuleToSave"])]
    public override IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <summary>What is adapted, by the base's <c>model_type</c>, where <see cref="TargetModules"/> is null.</summary>
    public virtual IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.Lora;

    /// <summary>Parameters to adapt whose module is no layer, by name or ending of the path, such as <c>experts.down_proj</c>. A method that has the choice makes it a field.</summary>
    public virtual IReadOnlyList<string>? TargetParameters { get; init; }

    /// <summary>Ranges of the model's blocks that stand in its stack, one behind the other, while the adapter is there; null for the stack as it is. A method that has the choice makes it a field.</summary>
    public virtual IReadOnlyList<IReadOnlyList<int>>? LayerReplication { get; init; }

    /// <summary>Which biases of the base are trained. A method that has the choice makes it a field.</summary>
    public virtual BiasTraining Bias { get; init; }

    /// <summary>Says that linear layers hold their weight as [in, out], as GPT-2's do. Peft sees that by itself, so a wrong value does no harm.</summary>
    public virtual bool FanInFanOut { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        var isPattern = TargetModules is { Pattern: not null, IsAllLinear: false };
        if (LayersToTransform is not null && isPattern)
        {
            throw Contradiction("layers_to_transform can't be used when target_modules is a regular expression; say the layers in the expression.");
        }

        if (LayersPattern is { Count: > 0 } && isPattern)
        {
            throw Contradiction("layers_pattern can't be used when target_modules is a regular expression; say the layers in the expression.");
        }

        if (LayersPattern is { Count: > 0 } && LayersToTransform is null)
        {
            throw Contradiction("layers_pattern needs layers_to_transform.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new LayerwiseAdapter(name, this);

    /// <summary>Makes what the method puts on one layer, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="adapter">The adapter, with the layers before this one.</param>
    /// <param name="messages">Takes what the user should know although it is no error.</param>
    /// <exception cref="PeftException">The method can't adapt this layer.</exception>
    public abstract LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages);

    /// <summary>The error for a kind of layer the method exists for elsewhere but not here.</summary>
    protected NotSupportedByPeftException KindNotSupported(IAdaptable layer) => new(
        "LayerKindNotSupported", $"{PeftType} on a layer of the kind {layer.Module.ClassName} ('{layer.Path}') is not supported.")
    {
        Target = layer.Path,
    };

    /// <summary>The error for a kind of layer the method doesn't exist for.</summary>
    protected PeftException KindRefused(IAdaptable layer) => KindRefused(layer.Module, layer.Path);

    /// <summary>The error for a module that can't be adapted.</summary>
    internal PeftException KindRefused(Models.Module module, string path) => new("TargetKindNotSupported", $"'{path}' is a {module.ClassName}, which {PeftType} can't adapt.")
    {
        Target = path,
        RecommendedAction = "Target the layers inside it, or train it in full with modules_to_save.",
    };
}

/// <summary>Which biases of the base an adapter trains.</summary>
public enum BiasTraining
{
    /// <summary>None.</summary>
    None,

    /// <summary>Every bias of the model.</summary>
    All,

    /// <summary>Those of adapted layers.</summary>
    Adapted,
}
