using Peft.Adapters.Combination;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters;

/// <summary>
/// An adapter that acts on layers, each for itself: it finds its targets and lets the configuration make a <see cref="LayerAdapter"/> for each.
/// A method whose layers share something derives this and makes it when it declares.
/// </summary>
public class LayerwiseAdapter(string name, LayerwiseConfig config) : Adapter(name, config)
{
    private readonly List<AdaptedLayer> _layers = [];
    private readonly WeightEdits _edits = new();

    /// <summary>The configuration, its targets resolved once the adapter is declared.</summary>
    internal new LayerwiseConfig Config
    {
        get => (LayerwiseConfig)base.Config;
        private protected set => base.Config = value;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<AdaptedLayer> Layers => _layers;

    /// <inheritdoc/>
    internal override bool SharesPasses => Overlays.Count == 0 && _layers.TrueForAll(static layer => layer.Adapter is { RowSelectable: true, ChangesInput: false });

    /// <summary>Whether it changes the base's weights while it is there.</summary>
    internal bool EditsBase => _edits.Any;

    /// <inheritdoc/>
    public override IReadOnlyList<AdapterParameter> Parameters() =>
    [
        .. _layers.SelectMany(layer => layer.Adapter.Parameters.Select(parameter =>
            AdapterParameterOf(layer, parameter))),
        .. base.Parameters(),
    ];

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        var isAll = Config.TargetModules is { IsAllLinear: true };
        Config = Config with { TargetModules = TargetMatcher.Resolve(Config, model) };
        var named = model.NamedParameters().ToArray();
        var targets = Targets(model, messages);
        DeclareShared(targets);
        foreach (var layer in targets)
        {
            AddLayer(layer, messages);
            TakeAlongOrWarn(layer, named, messages);
        }

        base.Declare(model, messages);
        DeclareBiases(named);
        if (isAll && AdapterCoverage.Of(this, model).Untrained is { Count: > 0 } untrained)
        {
            messages.Add($"all-linear leaves untrained what is no linear layer: {string.Join(", ", untrained)}.");
        }
    }

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        foreach (var (_, adapter) in _layers)
        {
            if (adapter.Parameters.Any(parameter => needed(parameter.Parameter)))
            {
                adapter.Initialise(generator);
            }
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    public override void Attach()
    {
        foreach (var (layer, adapter) in _layers)
        {
            AdapterSlot.Of(layer.Module, layer.Weight).Attach(Name, adapter);
            if (adapter.BaseEdit is { } edit && layer.Weight.IsLoaded)
            {
                _edits.Edit(layer.Weight, edit);
            }
        }

        base.Attach();
    }

    /// <summary>The widest choice of biases that any of some adapters trains.</summary>
    /// <param name="parts">The adapters.</param>
    protected static BiasTraining CombinedBias(IReadOnlyList<AdapterPart> parts)
    {
        BiasTraining[] biases = [.. parts.Select(static part => ((LayerwiseConfig)part.Adapter.Config).Bias)];
        return biases.Contains(BiasTraining.All) ? BiasTraining.All : biases.Max();
    }

    /// <inheritdoc/>
    public override void Detach()
    {
        base.Detach();
        _edits.Undo();
    }

    /// <inheritdoc/>
    internal override string BaseKey(string path, string parameter) => _layers.Exists(layer => layer.Layer.Path == path) ? $"base_layer.{parameter}" : parameter;

    /// <summary>Adds what the method puts on a layer beside its targets. Called after <see cref="Declare"/>'s own.</summary>
    /// <param name="layer">The layer, which no target has named.</param>
    private protected void AddLayer(AdaptedLayer layer) => _layers.Add(layer);

    /// <summary>Makes what layers share, which the sizes of all targets decide. Called before any layer is made.</summary>
    /// <param name="targets">All targets, in the model's order.</param>
    protected virtual void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        foreach (var (_, adapter) in _layers)
        {
            adapter.Dispose();
        }

        base.Dispose(disposing);
    }

    /// <summary>The layers to adapt, in the model's order.</summary>
    private protected virtual IReadOnlyList<IAdaptable> Targets(PretrainedModel model, ICollection<string> messages) =>
    [
        .. TargetMatcher.Match(Config with { ModulesToSave = SavedNames() }, model, messages).SelectMany(match => match.Module.Adaptables is { Count: > 0 } all ? all : throw Config.KindRefused(match.Module, match.Path)),
        .. TargetMatcher.MatchParameters(Config, model, messages).Select(match => match.Module.AdaptableOf(match.Parameter) ?? throw Config.KindRefused(match.Module, match.Path)),
    ];

    private AdapterParameter AdapterParameterOf(AdaptedLayer layer, LayerParameter parameter)
    {
        var key = KeyOf(layer.Path, parameter.Key);
        return new AdapterParameter(key, parameter.Parameter, parameter.Role, layer.Layer.Module) { FileKey = parameter.IsSaved ? key : null, Scale = layer.Adapter.ChangeScale };
    }

    private void AddLayer(IAdaptable layer, ICollection<string> messages)
    {
        if (!_layers.Exists(existing => existing.Layer.Weight == layer.Weight))
        {
            // Of a module's parameters the last one has the outer keys, as in PEFT, where each wraps the ones before it.
            for (var i = 0; i < _layers.Count; i++)
            {
                _layers[i] = _layers[i].Layer.Module == layer.Module ? _layers[i] with { Path = $"{_layers[i].Path}.base_layer" } : _layers[i];
            }

            _layers.Add(new AdaptedLayer(layer, Config.CreateLayer(layer, this, messages)));
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

    private void DeclareBiases(IReadOnlyList<NamedParameter> named)
    {
        if (Config.Bias == BiasTraining.None)
        {
            return;
        }

        foreach (var (_, parameter, module) in named)
        {
            // Exactly so called, as PEFT has it: dt_bias of a recurrence and the biases of stacked experts are none of these.
            if (parameter.Name == "bias" && (Config.Bias == BiasTraining.All || _layers.Exists(layer => layer.Layer.Module == module))
                && !Overlays.Any(overlay => overlay.Targets.Any(target => target.Parameter == parameter)))
            {
                AddOverlay([new OverlayTarget(module.Path, BaseKey(module.Path, parameter.Name), module, parameter)], OverlayKind.Bias);
            }
        }
    }
}

/// <summary>A layer and what an adapter put on it.</summary>
/// <param name="Layer">The layer.</param>
/// <param name="Adapter">What sits in its slot.</param>
public readonly record struct AdaptedLayer(IAdaptable Layer, LayerAdapter Adapter)
{
    /// <summary>Where an adapter file holds it: the module's path, with <c>base_layer</c> behind it for each other parameter of the module that wraps this one.</summary>
    public string Path { get; init; } = Layer.Path;
}
