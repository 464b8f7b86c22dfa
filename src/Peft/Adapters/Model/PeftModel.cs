using System.Buffers;
using System.Text.RegularExpressions;
using Peft.Adapters.Files;
using Peft.Adapters.Merging;
using Peft.Adapters.Slots;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <summary>
/// A loaded model with its adapters: the one live object that every operation works on and changes in place.
/// What changes it takes the model for the moment of the change; longer operations hold it with <see cref="Acquire"/>.
/// </summary>
public sealed partial class PeftModel : IDisposable
{
    /// <summary>A name becomes part of the keys of a file, and a folder on any system.</summary>
    private const int LongestName = 80;
    private static readonly Regex Devices = new("^(con|prn|aux|nul|conin\\$|conout\\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])$", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant, TimeSpan.FromSeconds(1));
    private static readonly SearchValues<char> NotInNames = SearchValues.Create("./\\:*?\"<>|");

    private readonly List<PeftAdapter> adapters = [];
    private readonly ModelLease lease;
    private readonly Device? device;
    private IReadOnlyList<ActiveAdapter> active = [];
    private IReadOnlyList<ActiveAdapter> activeBeforeMerge = [];
    private AdapterSelection selection = AdapterSelection.Base;
    private WeightMerge? merge;

    /// <summary>Takes over a model.</summary>
    /// <param name="model">The base; disposed together with this.</param>
    /// <param name="name">What to call it.</param>
    /// <param name="path">The folder it came from, or null.</param>
    public PeftModel(PretrainedModel model, string name, string? path = null)
    {
        Base = model;
        Name = name;
        Path = path;
        lease = new ModelLease(name);

        // Asked once: a view may look while another runspace frees the tensors.
        device = model.IsLoaded ? model.Device : null;
    }

    /// <summary>What the model is called: the last part of its folder or hub name.</summary>
    public string Name { get; }

    /// <summary>The folder it was loaded from, or null.</summary>
    public string? Path { get; }

    /// <summary>The base model.</summary>
    public PretrainedModel Base { get; }

    /// <summary>The base model's configuration.</summary>
    public ModelConfig Config => Base.Config;

    /// <summary>Its adapters, in the order they were added.</summary>
    public IReadOnlyList<PeftAdapter> Adapters => adapters;

    /// <summary>Names of the active adapters, innermost first.</summary>
    public IReadOnlyList<string> ActiveAdapters => [.. active.Select(static entry => entry.Name)];

    /// <summary>The active adapters with their strengths.</summary>
    public IReadOnlyList<ActiveAdapter> ActiveSet => active;

    /// <summary>Whether the active adapters act; <see cref="Disable"/> keeps the set and lets the base speak.</summary>
    public bool AdaptersEnabled { get; private set; } = true;

    /// <summary>What a forward pass should carry in its context.</summary>
    public AdapterSelection CurrentSelection => selection;

    /// <summary>Names of the adapters that are in the weights, in the order they were merged.</summary>
    public IReadOnlyList<string> MergedAdapters { get; private set; } = [];

    /// <summary>Whether adapters are in the weights and can be taken out again.</summary>
    public bool IsMerged => merge is not null;

    /// <summary>Rises whenever the model computes something else than before, for whoever keeps what depends on it.</summary>
    public int Version { get; private set; }

    /// <summary>Whether base and adapters were freed; every operation is an error then.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Whether only the structure exists, without weights.</summary>
    public bool IsStructureOnly => !Base.IsLoaded;

    /// <summary>Where the weights are.</summary>
    public Device Device => device ?? Base.Device;

    /// <summary>Element type in which the base computes.</summary>
    public ScalarType DataType => Base.DataType;

    /// <summary>
    /// Memory that the weights of base and adapters take, with the originals that a merge keeps. Counted from shapes and types: another
    /// runspace may free the tensors meanwhile.
    /// </summary>
    public long MemoryBytes => Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Select(static named => named.Parameter)
        .Concat(adapters.ToArray().SelectMany(static adapter => adapter.TrainableParameters.Select(static parameter => parameter.Parameter)))
        .Concat(adapters.ToArray().SelectMany(static adapter => adapter.Adapter.Overlays.Select(static overlay => overlay.Copy)))
        .Distinct().Where(static parameter => parameter.Value is not null)
        .Sum(static parameter => parameter.Count * Tensors.ElementType.SizeOf(parameter.DataType)) + (merge?.OriginalBytes ?? 0);

    /// <summary>Counts parameters as PEFT does.</summary>
    public ParameterCounts ParameterCounts
    {
        get
        {
            var own = adapters.SelectMany(static adapter => adapter.TrainableParameters.Select(parameter => (adapter.Name, parameter.Parameter))).ToArray();
            var biases = adapters.SelectMany(static adapter => adapter.Adapter.Overlays)
                .Where(static overlay => overlay.Kind == OverlayKind.Bias).Select(static overlay => overlay.Copy).ToHashSet();
            var names = ActiveAdapters;
            return new ParameterCounts(
                own.Where(entry => names.Contains(entry.Name)).Sum(static entry => entry.Parameter.Count),
                Base.CountParameters() + own.Where(entry => !biases.Contains(entry.Parameter)).Sum(static entry => entry.Parameter.Count));
        }
    }

    /// <summary>The model's name, so that a text with a model in it, or a parameter that takes a name, gets that.</summary>
    public override string ToString() => Name;

    /// <summary>The adapter of this name.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    public PeftAdapter this[string name] => adapters.Find(adapter => adapter.Name == name) ?? throw NotFound(name);

    /// <summary>Holds the model for one operation. A second operation meanwhile gets an error, never a wait.</summary>
    /// <param name="operation">What is going on, for the other's error message: <c>training</c>, <c>generation</c>.</param>
    /// <returns>Dispose it when the operation is over. Take it on the thread that does the work: calls from that thread go through.</returns>
    /// <exception cref="PeftException"><c>PeftModelBusy</c> or <c>ModelDisposed</c>.</exception>
    public IDisposable Acquire(string operation)
    {
        var held = lease.Acquire(operation);
        try
        {
            if (IsDisposed)
            {
                throw Disposed(operation);
            }

            Base.RefuseChangedFiles();
            return held;
        }
        catch
        {
            held.Dispose();
            throw;
        }
    }

    /// <summary>Adds a new adapter. The first one of a model becomes active; later ones wait for <see cref="SetActive(IEnumerable{ActiveAdapter})"/>.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="name">The adapter's name; unique in the model.</param>
    /// <param name="seed">Makes the starting values repeatable; null draws another start each time.</param>
    /// <exception cref="PeftException"><c>AdapterExists</c>, <c>AdapterNameInvalid</c>, <c>ModelIsMerged</c>, or what is wrong with the configuration.</exception>
    /// <exception cref="NotSupportedByPeftException">A variant without code, named by its key.</exception>
    public PeftAdapter AddAdapter(AdapterConfig config, string name = "default", ulong? seed = null)
    {
        using var held = Acquire("adding an adapter");
        if (adapters.Exists(existing => existing.Name == name))
        {
            throw new PeftException("AdapterExists", $"The model '{Name}' has an adapter '{name}' already.")
            {
                Target = name,
                RecommendedAction = "Choose another name, or remove that adapter first.",
            };
        }

        return Take(Create(config, name, seed, out var report), null, report, adapters.Count);
    }

    /// <summary>Loads an adapter from a folder as PEFT saved it. One of the same name is replaced.</summary>
    /// <param name="folder">The folder with <c>adapter_config.json</c> and <c>adapter_model.safetensors</c> or <c>.bin</c>.</param>
    /// <param name="name">The adapter's name; null for <c>default</c>.</param>
    /// <exception cref="PeftException">What is wrong with the files, or that they don't fit the model.</exception>
    /// <exception cref="NotSupportedByPeftException">A method or variant without code.</exception>
    public PeftAdapter LoadAdapter(string folder, string? name = null)
    {
        using var held = Acquire("loading an adapter");
        name ??= "default";
        List<string> messages = [];
        var adapter = Build(AdapterConfig.FromFolder(folder), name, messages);
        LoadReport report;
        try
        {
            using var noGradients = no_grad();
            using var generator = MakeGenerator(0);
            report = IsStructureOnly ? new LoadReport([], [], messages) : AdapterFile.Load(adapter, folder, generator, messages);
            RefuseConflicts(adapter);
        }
        catch
        {
            adapter.Dispose();
            throw;
        }

        var position = adapters.FindIndex(existing => existing.Name == name);
        if (position >= 0)
        {
            Drop(adapters[position]);
        }

        return Take(adapter, folder, report, position < 0 ? adapters.Count : position);
    }

    /// <summary>Saves an adapter into a folder as PEFT does.</summary>
    /// <param name="name">The adapter's name.</param>
    /// <param name="folder">The folder; made when it isn't there.</param>
    /// <param name="embeddings">Whether the weights of adapted embeddings and output layers are saved too; null for when the configuration names them.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>NotAFolder</c>, or what writing throws.</exception>
    public void SaveAdapter(string name, string folder, bool? embeddings = null)
    {
        using var held = Acquire("saving an adapter");
        var adapter = this[name];
        AdapterFile.Save(adapter.Adapter, folder, embeddings);
        adapter.Path = folder;
    }

    /// <summary>Saves several adapters as PEFT does: <c>default</c> into the folder itself, every other one into a subfolder of its name.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="names">The adapters; null for all.</param>
    /// <exception cref="PeftException">As <see cref="SaveAdapter"/>; nothing is written when a name is unknown.</exception>
    public void SaveAdapters(string folder, IEnumerable<string>? names = null)
    {
        foreach (var adapter in (names ?? adapters.Select(static adapter => adapter.Name)).Select(name => this[name]).ToArray())
        {
            SaveAdapter(adapter.Name, adapter.Name == "default" ? folder : System.IO.Path.Combine(folder, adapter.Name));
        }
    }

    /// <summary>Frees base and adapters.</summary>
    public void Dispose()
    {
        using var held = lease.Acquire("removing the model");
        if (IsDisposed)
        {
            return;
        }

        IsDisposed = true;
        merge?.Dispose();
        foreach (var adapter in adapters)
        {
            adapter.Adapter.Dispose();
        }

        adapters.Clear();
        Base.Dispose();
        GC.SuppressFinalize(this);
    }

    private static Generator MakeGenerator(ulong? seed) => seed is { } given
        ? new Generator(given)
        : new Generator((ulong)System.Random.Shared.NextInt64());

    /// <summary>Makes an adapter with its starting values; the model doesn't know of it yet.</summary>
    private Adapter Create(AdapterConfig config, string name, ulong? seed, out LoadReport report)
    {
        List<string> messages = [];
        var adapter = Build(config, name, messages);
        try
        {
            RefuseTiedLayers(adapter);
            RefuseConflicts(adapter);
            if (!IsStructureOnly)
            {
                using var generator = MakeGenerator(seed);
                adapter.Initialise(generator, static _ => true);
            }
        }
        catch
        {
            adapter.Dispose();
            throw;
        }

        report = new LoadReport([], [], messages);
        return adapter;
    }

    private Adapter Build(AdapterConfig config, string name, List<string> messages)
    {
        RefuseName(name);
        if (IsMerged)
        {
            throw new PeftException("ModelIsMerged", $"'{Name}' has adapters merged into its weights ({string.Join(", ", MergedAdapters)}).")
            {
                RecommendedAction = "Undo the merge first.",
            };
        }

        config.Validate();
        if (config.UnknownKeys is { Count: > 0 } unknown)
        {
            messages.Add($"{AdapterConfig.FileName} has keys that are not known here and say nothing: {string.Join(", ", unknown)}. A later release may have written it.");
        }

        var adapter = (config with { BaseModelName = config.BaseModelName ?? Path ?? Name }).CreateAdapter(name);
        adapter.Declare(Base, messages);
        return adapter;
    }

    /// <summary>A file with factors for both sharers of a weight can be used, but training would let the two drift apart.</summary>
    private static void RefuseTiedLayers(Adapter adapter)
    {
        if (adapter.Config.EnsureWeightTying && adapter.Layers.Any(layer => adapter.Layers.Any(other => other.Layer.Weight.TiedTo == layer.Layer.Weight)))
        {
            throw new NotSupportedByPeftException("LoraVariantNotSupported", "Training one change for layers that share their weight (ensure_weight_tying on target modules) is not supported.")
            {
                Target = "ensure_weight_tying",
            };
        }
    }

    private PeftAdapter Take(Adapter adapter, string? folder, LoadReport report, int position)
    {
        adapter.Attach();
        var taken = new PeftAdapter(this, adapter, folder, report);
        adapters.Insert(position, taken);
        if (active.Count == 0 && adapters.Count == 1)
        {
            active = [new ActiveAdapter(adapter.Name)];
        }

        Changed();
        return taken;
    }

    private void Drop(PeftAdapter adapter)
    {
        adapters.Remove(adapter);
        adapter.Adapter.Detach();
        adapter.Adapter.Dispose();
    }

    private void Changed()
    {
        selection = AdaptersEnabled && active.Count > 0 ? new AdapterSelection(active) : AdapterSelection.Base;
        Version++;
    }

    private static void RefuseName(string name)
    {
        // An adapter is a folder by its name, which has to be one on every system that it may be copied to.
        var isFolder = !string.IsNullOrWhiteSpace(name) && name == name.Trim() && name.Length <= LongestName && !VisibleText.IsNeeded(name) && !Devices.IsMatch(name);
        if (!isFolder || name == AdapterSelection.BaseRow || name.AsSpan().ContainsAny(NotInNames))
        {
            throw new PeftException("AdapterNameInvalid", $"'{name}' can't be the name of an adapter: it must not be empty, longer than {LongestName} characters or a device of Windows such as NUL, begin or end with a blank, hold a dot, a slash, a control character or one of : * ? \" < > |, or be {AdapterSelection.BaseRow}.")
            {
                Target = name,
                RecommendedAction = "Choose a name of letters, digits, - and _.",
            };
        }
    }

    private PeftException Disposed(string operation) => new("ModelDisposed", $"The weights of '{Name}' were freed; {operation} needs them.")
    {
        Target = Name,
        RecommendedAction = "Import the model again.",
    };

    private PeftException NotFound(string name) => IsDisposed ? Disposed($"the adapter '{name}'") : new(
        "AdapterNotFound", $"The model '{Name}' has no adapter '{name}'; it has {(adapters.Count == 0 ? "none" : string.Join(", ", adapters.Select(static adapter => adapter.Name)))}.")
    {
        Target = name,
        RecommendedAction = adapters.Count == 0 ? "Add, load or train one first." : "Give the name of one that it has.",
    };
}
