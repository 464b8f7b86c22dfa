using Peft.Adapters.Combination;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters;

/// <summary>
/// One adapter of a model, model-wide: it declares its parameters and their keys, prepares passes, has a term in the loss and hooks in the training,
/// and owns its copies of the base's parameters.
/// </summary>
/// <remarks>A method that acts on layers, each for itself, derives <see cref="LayerwiseAdapter"/>; one that acts on whole passes (prompts, gates) derives this.</remarks>
public abstract class Adapter(string name, AdapterConfig config) : IDisposable
{
    private readonly List<Overlay> _overlays = [];
    private LayerReplication? _replication;

    /// <summary>The adapter's name.</summary>
    public string Name { get; } = name;

    /// <inheritdoc/>
    public override string ToString() => Name;

    /// <summary>The configuration, its targets resolved once the adapter is declared.</summary>
    public AdapterConfig Config { get; protected set; } = config;

    /// <summary>The adapted layers, in the model's order; none for a method that acts on whole passes.</summary>
    public virtual IReadOnlyList<AdaptedLayer> Layers => [];

    /// <summary>The parameters of the base that the adapter has copies of.</summary>
    public IReadOnlyList<Overlay> Overlays => _overlays;

    /// <summary>Where the base's weights are, and with them the adapter's; the CPU before it is declared.</summary>
    public Device Device { get; private set; } = CPU;

    /// <summary>Elements that PEFT counts among a model's parameters although the method never trains them.</summary>
    public virtual long UntrainedCount => 0;

    /// <summary>Whether it acts on each position for itself, by its layers alone, so that other adapters can act on other positions of the same pass.</summary>
    internal virtual bool SharesPasses => false;

    /// <summary>Why the adapter can't be merged as a whole, or null; what a single layer's obstacle is says that layer.</summary>
    public virtual string? MergeObstacle => null;

    /// <summary>Everything the adapter is made of, with full keys; what is saved under several keys comes once under each.</summary>
    public virtual IReadOnlyList<AdapterParameter> Parameters() =>
    [
        .. Shared,
        .. _overlays.Where(static overlay => overlay.Kind != OverlayKind.BroughtAlong)
            .SelectMany(overlay => overlay.Targets.Select(target => new AdapterParameter(KeyOf(target.Path, target.Key), overlay.Copy, ParameterRole.Trained, target.Module))),
    ];

    /// <summary>Bytes of its own tensors as its file holds them, counted from shapes: works before weights are there.</summary>
    public long SavedBytes => Parameters().Where(static parameter => parameter.IsSaved).DistinctBy(static parameter => parameter.FileKey).Sum(static parameter => parameter.Parameter.Bytes);

    /// <summary>Makes the adapter's parameters and overlays, by shape alone: works before weights are there. Attaches nothing.</summary>
    /// <param name="model">The model.</param>
    /// <param name="messages">Takes what the user should know although it is no error.</param>
    /// <exception cref="PeftException">The configuration doesn't fit the model.</exception>
    public virtual void Declare(PretrainedModel model, ICollection<string> messages)
    {
        Device = model.Device;
        var asked = Config.ModulesToSave;
        Config = Config with { ModulesToSave = SavedNames() };
        DeclareSavedModules(model);
        foreach (var idle in IdleNames(asked ?? [], model))
        {
            messages.Add($"modules_to_save names '{idle}', which matches no module.");
        }
    }

    /// <summary>Changes the structure of a model for as long as the adapter is there, before targets are matched.</summary>
    /// <param name="model">The model.</param>
    /// <param name="isInUse">Whether it has other adapters.</param>
    /// <exception cref="PeftException">The structure can't be changed, or not so.</exception>
    internal void EditStructure(PretrainedModel model, bool isInUse) => _replication = LayerReplication.Use(model, (Config as LayerwiseConfig)?.LayerReplication, isInUse);

    /// <summary>Gives parameters their first values: what the method prescribes, and copies of the base for overlays.</summary>
    /// <param name="generator">Source of random numbers.</param>
    /// <param name="needed">Says whether a parameter wants a value.</param>
    public virtual void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        foreach (var overlay in _overlays)
        {
            if (overlay.Copy.Value is null && needed(overlay.Copy))
            {
                overlay.Copy.Assign(overlay.Targets[0].Parameter.Data.clone());
            }
        }
    }

    /// <summary>Refuses what a file may hold but can't be begun, once the adapter is declared.</summary>
    /// <exception cref="PeftException">What stands in the way.</exception>
    internal virtual void RefuseNew()
    {
    }

    /// <summary>Puts everything into the slots of the model.</summary>
    public virtual void Attach()
    {
        foreach (var (overlay, target) in _overlays.SelectMany(static overlay => overlay.Targets.Select(target => (overlay, target))))
        {
            AdapterSlot.Of(target.Module, target.Parameter).Attach(Name, overlay.Copy);
        }
    }

    /// <summary>Takes everything out of the slots again.</summary>
    public virtual void Detach()
    {
        foreach (var slot in Slots().ToArray())
        {
            slot.Detach(Name);
        }
    }

    /// <summary>Prepares a pass in which the adapter is active: what it puts there (a prompt, gates) is an input of the operations that read it, known to the tape.</summary>
    /// <param name="pass">The pass, as its maker and the adapters before this one left it.</param>
    public virtual ForwardContext Prepare(ForwardContext pass) => pass;

    /// <summary>Adds the method's own term to the loss, or replaces it; in evaluation as in training.</summary>
    /// <param name="loss">A scalar, known to the tape of the pass where there is one.</param>
    /// <param name="pass">The pass.</param>
    public virtual Tensor Loss(Tensor loss, ForwardContext pass) => loss;

    /// <summary>Called before a training begins or goes on, while nothing has been made for it.</summary>
    /// <param name="steps">Steps of the whole training.</param>
    /// <exception cref="PeftException">The adapter can't be trained, or not that long.</exception>
    public virtual void OnTraining(int steps)
    {
    }

    /// <summary>What of a parameter goes into a file: all of it, usually.</summary>
    /// <param name="parameter">One of the adapter's.</param>
    public virtual Tensor Saved(Parameter parameter) => parameter.Data;

    /// <summary>Called when the parameters have the values of a file: what isn't saved and computed from what is, is brought up to date.</summary>
    public virtual void OnLoaded()
    {
    }

    /// <summary>Called before the adapter is written: what is saved and computed from what is trained is brought up to date.</summary>
    public virtual void OnSaving()
    {
    }

    /// <summary>Writes what lies beside the adapter's own file.</summary>
    /// <param name="folder">The folder, in which the adapter's files are.</param>
    internal virtual void SaveBeside(string folder)
    {
    }

    /// <summary>Called when a step's gradients are there, before they are clipped.</summary>
    /// <param name="step">Counted from 0.</param>
    public virtual void OnGradients(int step)
    {
    }

    /// <summary>Called when gradients are as the optimiser will see them.</summary>
    /// <param name="step">Counted from 0.</param>
    public virtual void OnClippedGradients(int step)
    {
    }

    /// <summary>Called after the optimiser's step, while its gradients are still there.</summary>
    /// <param name="step">Counted from 0.</param>
    /// <returns>Whether shapes, or what is trained, changed: the optimiser has to be made anew.</returns>
    public virtual bool OnStepped(int step) => false;

    /// <summary>What the method remembers from step to step beside its parameters; goes into checkpoints.</summary>
    public virtual IReadOnlyDictionary<string, Tensor> State() => new Dictionary<string, Tensor>();

    /// <summary>Takes up what <see cref="State"/> gave, before the parameters get their values: what is trained may depend on it.</summary>
    /// <param name="state">Tensors by name; they belong to the caller.</param>
    public virtual void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
    }

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
        foreach (var overlay in _overlays)
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
        Layers.Select(static layer => layer.Layer.Weight.Slot)
            .Concat(_overlays.SelectMany(static overlay => overlay.Targets).Select(static target => target.Parameter.Slot))
            .OfType<AdapterSlot>().Distinct();

    /// <summary>Adds a weight of the base that an adapter file brought along and that differs from the model's own; whatever shares it follows.</summary>
    internal void BringAlong(OverlayTarget target, Tensor weight, PretrainedModel model)
    {
        var copy = new Parameter(target.Parameter.Name, target.Parameter.Shape, weight.dtype);
        copy.Assign(weight);
        var sharing = Sharing(target.Parameter, [.. model.NamedParameters()])
            .Select(other => new OverlayTarget(other.Module.Path, BaseKey(other.Module.Path, other.Parameter.Name), other.Module, other.Parameter));
        _overlays.Add(new Overlay([target, .. sharing], copy, OverlayKind.BroughtAlong));
    }

    /// <summary>The key below the module's path under which an adapter file holds a parameter of the base.</summary>
    internal virtual string BaseKey(string path, string parameter) => parameter;

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>The tokens that were added to its model; null of an adapter that belongs to none.</summary>
    internal ModelVocabulary? Vocabulary { get; set; }

    /// <summary>Which base it is made for: its digest, from <see cref="ModelDigest"/>; null where that isn't known.</summary>
    internal string? BaseDigest { get; set; }

    /// <summary>Parameters that belong to no layer, or to several: shared projections, prompts. A method adds them when it declares; they are saved and freed here.</summary>
    protected ICollection<AdapterParameter> Shared { get; } = [];

    /// <summary>The key of what belongs to a module, as PEFT writes it.</summary>
    protected string KeyOf(string path, string key) => $"{KeyPrefix}{path}.{key}";

    /// <summary>What PEFT puts before the path of a module of the base.</summary>
    protected virtual string KeyPrefix => AdapterFile.Prefix;

    /// <summary>Frees the parameters.</summary>
    protected virtual void Dispose(bool disposing)
    {
        foreach (var parameter in Shared.Select(static shared => shared.Parameter).Concat(_overlays.Select(static overlay => overlay.Copy)))
        {
            parameter.Release();
        }

        _replication?.End();
        _replication = null;
    }

    /// <summary>Adds a copy of a parameter of the base.</summary>
    private protected void AddOverlay(IReadOnlyList<OverlayTarget> targets, OverlayKind kind)
    {
        var first = targets[0].Parameter;
        _overlays.Add(new Overlay(targets, new Parameter(first.Name, first.Shape, first.DataType), kind));
    }

    /// <summary>The other parameters that share a parameter's weights.</summary>
    private protected static IEnumerable<NamedParameter> Sharing(Parameter parameter, IReadOnlyList<NamedParameter> named)
    {
        var owner = parameter.TiedTo ?? parameter;
        return named.Where(other => other.Parameter != parameter && (other.Parameter == owner || other.Parameter.TiedTo == owner));
    }

    /// <summary>Modules to save, the classification head among them where the task has one.</summary>
    private protected IReadOnlyList<string>? SavedNames() => TaskHeads.Count == 0
        ? Config.ModulesToSave
        : [.. Config.ModulesToSave ?? [], .. TaskHeads.Except(Config.ModulesToSave ?? [], StringComparer.Ordinal)];

    // Where a method saves no modules, PEFT trains and saves no head with it either.
    private IReadOnlyList<string> TaskHeads => !Configuration.ConfigField.Of(Config.GetType()).Any(static entry => entry.Name == "modules_to_save") ? [] : Config.TaskType switch
    {
        "SEQ_CLS" or "TOKEN_CLS" => TargetMatcher.ClassificationHeads,
        "QUESTION_ANS" => ["qa_outputs"],
        _ => [],
    };

    /// <summary>Names that save nothing. Where the task has a classification head, its usual names stand there whatever the model calls it.</summary>
    private IEnumerable<string> IdleNames(IReadOnlyList<string> asked, Module model) => asked
        .Where(name => !TaskHeads.Contains(name))
        .Where(name => TargetMatcher.MatchSaved([name], model).Count == 0);

    private void DeclareSavedModules(PretrainedModel model)
    {
        var named = model.NamedParameters().ToArray();
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
}
