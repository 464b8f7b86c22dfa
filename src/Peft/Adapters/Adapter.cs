using Peft.Adapters.Combination;
using Peft.Adapters.Files;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters;

/// <summary>
/// One adapter of a model, model-wide: it finds its targets, makes a <see cref="LayerAdapter"/> for each, owns its overlays and what its layers share,
/// and knows the keys of its file.
/// </summary>
/// <remarks>A method derives this and makes layers; everything else is the same for all methods that act on layers.</remarks>
public abstract class Adapter(string name, AdapterConfig config) : IDisposable
{
    private readonly List<AdaptedLayer> layers = [];
    private readonly List<Overlay> overlays = [];

    /// <summary>The adapter's name.</summary>
    public string Name { get; } = name;

    /// <summary>The configuration, its targets resolved once the adapter is declared.</summary>
    public AdapterConfig Config { get; protected set; } = config;

    /// <summary>The adapted layers, in the model's order.</summary>
    public IReadOnlyList<AdaptedLayer> Layers => layers;

    /// <summary>The parameters of the base that the adapter has copies of.</summary>
    public IReadOnlyList<Overlay> Overlays => overlays;

    /// <summary>What is trained and saved, in the model's order; what is saved under several keys comes once under each.</summary>
    public virtual IReadOnlyList<AdapterParameter> Parameters() =>
    [
        .. layers.SelectMany(static layer => layer.Adapter.Parameters.Select(parameter => new AdapterParameter(layer.Layer.Path, parameter.Key, parameter.Parameter)))
            .Concat(overlays.Where(static overlay => overlay.Kind != OverlayKind.BroughtAlong)
                .SelectMany(static overlay => overlay.Targets.Select(target => new AdapterParameter(target.Path, target.Key, overlay.Copy)))),
    ];

    /// <summary>Finds targets and makes layers and overlays, by shape alone: works before weights are there. Attaches nothing.</summary>
    /// <param name="model">The model.</param>
    /// <param name="messages">Takes what the user should know although it is no error.</param>
    /// <exception cref="PeftException">The configuration doesn't fit the model.</exception>
    public virtual void Declare(PretrainedModel model, ICollection<string> messages)
    {
        var asked = Config.ModulesToSave;
        Config = Config with { TargetModules = TargetMatcher.Resolve(Config, model), ModulesToSave = SavedNames() };
        var named = model.NamedParameters().ToArray();
        foreach (var (path, module) in TargetMatcher.Match(Config, model, messages))
        {
            var layer = module as IAdaptable ?? throw KindRefused(module, path);
            AddLayer(layer, messages);
            TakeAlongOrWarn(layer, named, messages);
        }

        DeclareSavedModules(model, named);
        foreach (var idle in IdleNames(asked ?? [], model))
        {
            messages.Add($"modules_to_save names '{idle}', which matches no module.");
        }

        DeclareBiases(model);
    }

    /// <summary>Gives parameters their first values: what the method prescribes, and copies of the base for overlays.</summary>
    /// <param name="generator">Source of random numbers.</param>
    /// <param name="needed">Says whether a parameter wants a value.</param>
    public virtual void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        foreach (var (layer, adapter) in layers)
        {
            if (adapter.Parameters.Any(parameter => needed(parameter.Parameter)))
            {
                adapter.Initialise(generator);
            }
        }

        foreach (var overlay in overlays)
        {
            if (overlay.Copy.Value is null && needed(overlay.Copy))
            {
                overlay.Copy.Assign(overlay.Targets[0].Parameter.Data.clone());
            }
        }
    }

    /// <summary>Puts everything into the slots of the model.</summary>
    public void Attach()
    {
        foreach (var (layer, adapter) in layers)
        {
            AdapterSlot.Of(layer.Module, layer.Weight).Attach(Name, adapter);
        }

        foreach (var overlay in overlays)
        {
            AttachOverlay(overlay);
        }
    }

    /// <summary>Takes everything out of the slots again.</summary>
    public void Detach()
    {
        foreach (var slot in Slots().ToArray())
        {
            slot.Detach(Name);
        }
    }

    /// <summary>Adds the method's own term to the loss, or replaces it.</summary>
    /// <param name="loss">A scalar, known to the tape of the pass.</param>
    /// <param name="context">The pass.</param>
    public virtual Tensor Loss(Tensor loss, ForwardContext context) => loss;

    /// <summary>Called when a step's gradients are there, before they are clipped.</summary>
    /// <param name="step">Counted from 0.</param>
    public virtual void OnGradients(int step)
    {
    }

    /// <summary>Called after the optimiser's step.</summary>
    /// <param name="step">Counted from 0.</param>
    /// <returns>Whether shapes, or what is trained, changed: the optimiser has to be made anew.</returns>
    public virtual bool OnStepped(int step) => false;

    /// <summary>The configuration of an adapter that combines several, this one the first of them.</summary>
    /// <param name="parts">All of them.</param>
    /// <param name="options">How they are combined.</param>
    /// <exception cref="PeftException"><c>CombinationInvalid</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>CombinationNotSupported</c>.</exception>
    public virtual AdapterConfig CombinedConfig(IReadOnlyList<AdapterPart> parts, CombinationOptions options) =>
        throw new NotSupportedByPeftException("CombinationNotSupported", $"Adapters of the method {Config.PeftType} can't be combined.") { Target = Name };

    /// <summary>Gives a new adapter of the <see cref="CombinedConfig"/> its values: those of the method, and what the parts have copies of.</summary>
    /// <param name="parts">What is combined.</param>
    /// <param name="options">How.</param>
    /// <param name="generator">Source of random numbers.</param>
    /// <param name="cancellation">Stops between layers.</param>
    public virtual void Combine(IReadOnlyList<AdapterPart> parts, CombinationOptions options, Generator generator, CancellationToken cancellation)
    {
        foreach (var overlay in overlays)
        {
            var theirs = parts.SelectMany(static part => part.Adapter.Overlays).FirstOrDefault(other => other.Targets[0].Parameter == overlay.Targets[0].Parameter);
            if (theirs?.Copy.Value is { } value)
            {
                overlay.Copy.Assign(value.clone());
            }
        }
    }

    /// <summary>The slots the adapter sits in, each once.</summary>
    public IEnumerable<AdapterSlot> Slots() =>
        layers.Select(static layer => layer.Layer.Weight.Slot)
            .Concat(overlays.SelectMany(static overlay => overlay.Targets).Select(static target => target.Parameter.Slot))
            .OfType<AdapterSlot>().Distinct();

    /// <summary>Adds a weight of the base that an adapter file brought along and that differs from the model's own.</summary>
    internal void BringAlong(IAdaptable layer, Tensor weight)
    {
        var copy = new Parameter(layer.Weight.Name, layer.Weight.Shape, weight.dtype);
        copy.Assign(weight);
        overlays.Add(new Overlay([new OverlayTarget(layer.Path, BaseKey(layer.Path, layer.Weight.Name), layer.Module, layer.Weight)], copy, OverlayKind.BroughtAlong));
    }

    /// <summary>The key below the module's path under which an adapter file holds a parameter of the base.</summary>
    internal string BaseKey(string path, string parameter) => layers.Exists(layer => layer.Layer.Path == path) ? $"base_layer.{parameter}" : parameter;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (_, adapter) in layers)
        {
            adapter.Dispose();
        }

        foreach (var overlay in overlays)
        {
            overlay.Copy.Release();
        }

        GC.SuppressFinalize(this);
    }

    /// <summary>Makes what the method puts on one layer, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="messages">Takes what the user should know although it is no error.</param>
    protected abstract LayerAdapter CreateLayer(IAdaptable layer, ICollection<string> messages);

    /// <summary>The error for a kind of layer the method exists for elsewhere but not here.</summary>
    protected NotSupportedByPeftException KindNotSupported(IAdaptable layer) => new(
        "LayerKindNotSupported", $"{Config.PeftType} on a layer of the kind {layer.Module.ClassName} ('{layer.Path}') is not supported.")
    {
        Target = layer.Path,
    };

    /// <summary>The error for a kind of layer the method doesn't exist for.</summary>
    protected PeftException KindRefused(IAdaptable layer) => KindRefused(layer.Module, layer.Path);

    private PeftException KindRefused(Module module, string path) => new(
        "TargetKindNotSupported", $"'{path}' is a {module.ClassName}, which {Config.PeftType} can't adapt.")
    {
        Target = path,
        RecommendedAction = "Target the layers inside it, or train it in full with modules_to_save.",
    };

    /// <summary>Modules to save, the classification head among them where the task has one.</summary>
    private IReadOnlyList<string>? SavedNames() => TaskHeads.Count == 0
        ? Config.ModulesToSave
        : [.. (Config.ModulesToSave ?? []).Union(TaskHeads, StringComparer.Ordinal)];

    private IReadOnlyList<string> TaskHeads => Config.TaskType switch
    {
        "SEQ_CLS" or "TOKEN_CLS" => TargetMatcher.ClassificationHeads,
        "QUESTION_ANS" => ["qa_outputs"],
        _ => [],
    };

    /// <summary>Names that save nothing. Where the task has a classification head, its usual names stand there whatever the model calls it.</summary>
    private IEnumerable<string> IdleNames(IReadOnlyList<string> asked, Module model) => asked
        .Where(name => !TaskHeads.Contains(name))
        .Where(name => TargetMatcher.MatchSaved([name], model).Count == 0);

    private void AddLayer(IAdaptable layer, ICollection<string> messages)
    {
        if (!layers.Exists(existing => existing.Layer.Weight == layer.Weight))
        {
            layers.Add(new AdaptedLayer(layer, CreateLayer(layer, messages)));
        }
    }

    /// <summary>A layer that shares its weight with others takes them along where the configuration asks for it.</summary>
    private void TakeAlongOrWarn(IAdaptable layer, IReadOnlyList<NamedParameter> named, ICollection<string> messages)
    {
        foreach (var partner in Sharing(layer.Weight, named))
        {
            if (!Config.EnsureWeightTying)
            {
                messages.Add($"'{layer.Path}' shares its weight with '{partner.Module.Path}': the adapter acts on the first alone, and merging it gives each a weight of its own.");
            }
            else if (partner.Module.AdaptableOf(partner.Parameter) is { } other)
            {
                AddLayer(other, messages);
            }
        }
    }

    /// <summary>The other parameters that share a parameter's weights.</summary>
    private static IEnumerable<NamedParameter> Sharing(Parameter parameter, IReadOnlyList<NamedParameter> named)
    {
        var owner = parameter.TiedTo ?? parameter;
        return named.Where(other => other.Parameter != parameter && (other.Parameter == owner || other.Parameter.TiedTo == owner));
    }

    private void DeclareSavedModules(PretrainedModel model, IReadOnlyList<NamedParameter> named)
    {
        HashSet<Parameter> seen = [];
        foreach (var (_, module) in TargetMatcher.MatchSaved(Config.ModulesToSave ?? [], model))
        {
            foreach (var (_, parameter, holder) in module.NamedParameters())
            {
                if (seen.Add(parameter))
                {
                    var partners = Config.EnsureWeightTying ? Sharing(parameter, named).Where(partner => seen.Add(partner.Parameter)) : [];
                    AddOverlay(
                        [
                            new OverlayTarget(holder.Path, parameter.Name, holder, parameter),
                            .. partners.Select(static partner => new OverlayTarget(partner.Module.Path, partner.Parameter.Name, partner.Module, partner.Parameter)),
                        ],
                        OverlayKind.SavedModule);
                }
            }
        }
    }

    private void DeclareBiases(PretrainedModel model)
    {
        if (Config.Bias == BiasTraining.None)
        {
            return;
        }

        foreach (var (_, parameter, module) in model.NamedParameters())
        {
            var isBias = parameter.Name.Contains("bias", StringComparison.Ordinal);
            if (isBias && (Config.Bias == BiasTraining.All || layers.Exists(layer => layer.Layer.Module == module))
                && !overlays.Exists(overlay => overlay.Targets.Any(target => target.Parameter == parameter)))
            {
                AddOverlay([new OverlayTarget(module.Path, BaseKey(module.Path, parameter.Name), module, parameter)], OverlayKind.Bias);
            }
        }
    }

    private void AddOverlay(IReadOnlyList<OverlayTarget> targets, OverlayKind kind)
    {
        var first = targets[0].Parameter;
        overlays.Add(new Overlay(targets, new Parameter(first.Name, first.Shape, first.DataType), kind));
    }

    private void AttachOverlay(Overlay overlay)
    {
        foreach (var target in overlay.Targets)
        {
            AdapterSlot.Of(target.Module, target.Parameter).Attach(Name, overlay.Copy);
        }
    }
}

/// <summary>A layer and what an adapter put on it.</summary>
/// <param name="Layer">The layer.</param>
/// <param name="Adapter">What sits in its slot.</param>
public readonly record struct AdaptedLayer(IAdaptable Layer, LayerAdapter Adapter);

/// <summary>A parameter with its place in an adapter file.</summary>
/// <param name="Path">Path of the module it belongs to.</param>
/// <param name="Key">The rest of its key, such as <c>lora_A.weight</c>.</param>
/// <param name="Parameter">The parameter.</param>
public readonly record struct AdapterParameter(string Path, string Key, Parameter Parameter)
{
    /// <summary>The key in the file, such as <c>base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight</c>.</summary>
    public string FullKey => $"{AdapterFile.Prefix}{Path}.{Key}";
}
