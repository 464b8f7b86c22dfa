using System.Text.Json.Nodes;
using Peft.Adapters.Combination;
using Peft.Adapters.Conversion;
using Peft.Adapters.Files;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Placement;
using Peft.Quantization;
using Peft.Quantization.Blocks;
using Peft.Quantization.Checkpoints;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <summary>
/// A loaded model with its adapters: the one live object that every operation works on and changes in place.
/// What changes it takes the model for the moment of the change; longer operations hold it with <see cref="Acquire"/>.
/// </summary>
public sealed partial class PeftModel : IDisposable
{
    private readonly AdapterSet _adapters;
    private readonly ModelMerge _merge;
    private readonly ModelLease _lease;
    private readonly Device? _device;
    private Lazy<Tokenizer?> _tokenizer;

    /// <summary>Takes over a model.</summary>
    /// <param name="model">The base; disposed together with this.</param>
    /// <param name="name">What to call it.</param>
    /// <param name="path">The folder or file it came from, or null.</param>
    public PeftModel(PretrainedModel model, string name, string? path = null)
    {
        Base = model;
        Name = name;
        Path = path;
        _lease = new ModelLease(name);
        _adapters = new AdapterSet(name);
        _merge = new ModelMerge(model, name, _adapters);
        _tokenizer = new Lazy<Tokenizer?>(() => path is null ? null : ModelFiles.FindTokenizer(path), LazyThreadSafetyMode.PublicationOnly);

        // Asked once: a view may look while another runspace frees the tensors.
        _device = model.IsLoaded ? model.Device : null;
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
    public IReadOnlyList<PeftAdapter> Adapters => Values.Of(_adapters.All);

    /// <summary>Names of the active adapters, innermost first.</summary>
    public IReadOnlyList<string> ActiveAdapters => Values.Of(_adapters.Active.Select(static entry => entry.Name));

    /// <summary>The active adapters with their strengths.</summary>
    public IReadOnlyList<ActiveAdapter> ActiveSet => Values.Of(_adapters.Active);

    /// <summary>Whether the active adapters act; <see cref="Disable"/> keeps the set and lets the base speak.</summary>
    public bool AdaptersEnabled => _adapters.IsEnabled;

    /// <summary>What a forward pass should carry in its context.</summary>
    public AdapterSelection CurrentSelection => _adapters.Selection;

    /// <summary>Names of the adapters that are in the weights, in the order they were merged.</summary>
    public IReadOnlyList<string> MergedAdapters => Values.Of(_merge.Names);

    /// <summary>Whether adapters are in the weights and can be taken out again.</summary>
    public bool IsMerged => _merge.IsMerged;

    /// <summary>Rises whenever the model computes something else than before, for whoever keeps what depends on it.</summary>
    public int Version => _adapters.Version;

    /// <summary>Whether base and adapters were freed; every operation is an error then.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Whether only the structure exists, without weights.</summary>
    public bool IsStructureOnly => !Base.IsLoaded;

    /// <summary>Where the weights are.</summary>
    public Device Device => _device ?? Base.Device;

    /// <summary>Element type in which the base computes.</summary>
    public ScalarType DataType => Base.DataType;

    /// <summary>The form that quantised weights of the base are held in, such as <c>nf4</c>; null where none are.</summary>
    public string? Quantization =>
        string.Join(", ", Base.NamedParameters().Select(static named => named.Parameter.Packed?.Kind).OfType<string>().Distinct()) is { Length: > 0 } kinds ? kinds : null;

    /// <summary>Where modules lie, by the device map that was asked for; empty where the whole model is on <see cref="Device"/>.</summary>
    public IReadOnlyList<ModulePlacement> DeviceMap => Values.Of(Base.DeviceMap);

    /// <summary>
    /// Memory that the weights of base and adapters take, with the originals that a merge keeps, and without what lies on the disk. Counted from shapes and types: another
    /// runspace may free the tensors meanwhile.
    /// </summary>
    public long MemoryBytes => Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Select(static named => named.Parameter)
        .Concat(Adapters.ToArray().SelectMany(static adapter => adapter.Adapter.Parameters().Select(static parameter => parameter.Parameter)))
        .Concat(Adapters.ToArray().SelectMany(static adapter => adapter.Adapter.Overlays.Select(static overlay => overlay.Copy)))
        .Distinct().Where(static parameter => parameter.IsLoaded && parameter.Offloaded?.IsOnDisk != true)
        .Sum(static parameter => parameter.Bytes + (parameter.Edits?.OriginalBytes ?? 0));

    /// <summary>Counts parameters as PEFT does.</summary>
    public ParameterCounts ParameterCounts
    {
        get
        {
            var own = Adapters.SelectMany(static adapter => adapter.TrainableParameters.Select(parameter => (adapter.Name, parameter.Parameter))).ToArray();
            var biases = Adapters.SelectMany(static adapter => adapter.Adapter.Overlays)
                .Where(static overlay => overlay.Kind == OverlayKind.Bias).Select(static overlay => overlay.Copy).ToHashSet();
            var names = ActiveAdapters;
            return new ParameterCounts(
                own.Where(entry => names.Contains(entry.Name)).Sum(static entry => entry.Parameter.Count),
                Base.CountParameters() + own.Where(entry => !biases.Contains(entry.Parameter)).Sum(static entry => entry.Parameter.Count)
                    + Adapters.Sum(static adapter => adapter.Adapter.UntrainedCount));
        }
    }

    /// <summary>The model's tokenizer, read when it is first asked for; null where the folder has none.</summary>
    /// <exception cref="PeftException">A tokenizer file is broken.</exception>
    public Tokenizer? Tokenizer
    {
        get => _tokenizer.Value;
        init => _tokenizer = new Lazy<Tokenizer?>(value);
    }

    /// <summary>The model's tokenizer.</summary>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>, or as <see cref="Tokenizer"/>.</exception>
    public Tokenizer RequiredTokenizer => Tokenizer ?? throw new PeftException("TokenizerMissing", $"'{Name}' has no tokenizer.")
    {
        Target = Name,
        RecommendedAction = "Put the tokenizer's files beside the weights and import the model again.",
    };

    /// <summary>What <c>generation_config.json</c> says, or null.</summary>
    public JsonObject? GenerationDefaults => Base.GenerationConfig;

    /// <summary>
    /// Ids that end a text: those of <c>generation_config.json</c>, else of <c>config.json</c>, with the tokenizer's own in front, for that is
    /// the one that training puts behind a text.
    /// </summary>
    public IReadOnlyList<int> EndOfTextIds
    {
        get
        {
            var published = GenerationDefaults is { } defaults && new ModelConfig(defaults).TokenIds("eos_token_id") is { Count: > 0 } generation
                ? generation
                : Config.TokenIds("eos_token_id");
            return Values.Of(Tokenizer?.EosTokenId is { } own && !published.Contains(own) ? [own, .. published] : published);
        }
    }

    /// <summary>The model's name, so that a text with a model in it, or a parameter that takes a name, gets that.</summary>
    public override string ToString() => Name;

    /// <summary>Loads a model from a folder in Hugging Face's layout, or from a single file whose format holds everything.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="options">How; null for the file's own types on the CPU.</param>
    /// <param name="name">What to call the model; null for the last part of the path.</param>
    /// <exception cref="PeftException">What is wrong with the files.</exception>
    /// <exception cref="NotSupportedByPeftException">A family or format without code.</exception>
    public static PeftModel Load(string path, LoadOptions? options = null, string? name = null)
    {
        using var noGradients = no_grad();
        var model = ModelLoader.Load(path, Completed(options ?? new LoadOptions()));
        return new PeftModel(model, name ?? System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(path))), path);
    }

    /// <summary>Where a model's modules would lie, by the device map that the options ask for; no weights are read.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="options">How it would be loaded.</param>
    /// <exception cref="PeftException">As <see cref="Load"/>, or what the device map lacks.</exception>
    public static IReadOnlyList<ModulePlacement> Plan(string path, LoadOptions options)
    {
        using var noGradients = no_grad();
        return ModelLoader.Plan(path, Completed(options));
    }

    private static LoadOptions Completed(LoadOptions options) => options with
    {
        OpenQuantized = (settings, type, file) => QuantizedStore.Open(settings, type, file, options.KeepsBlocks),
        MakeBlocks = BlockWeight.Of,
    };

    /// <summary>
    /// Makes what a forward pass carries: the adapters that act, and what they prepare for it. Every pass through a model with adapters begins here;
    /// what was prepared for another pass is dropped.
    /// </summary>
    /// <param name="pass">The rest of it: the tape, the batch's geometry, the cache.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    public ForwardContext NewPass(ForwardContext pass, AdapterSelection? selection = null)
    {
        ArgumentNullException.ThrowIfNull(pass);
        pass = pass with { Selection = selection ?? CurrentSelection, Prompt = null, OnTokens = null };
        foreach (var name in pass.Selection.RowNames?.Distinct() ?? pass.Selection.Order.Select(static entry => entry.Name))
        {
            pass = _adapters.Find(name)?.Adapter.Prepare(pass) ?? pass;
        }

        return pass;
    }

    /// <summary>The adapter of this name.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    public PeftAdapter this[string name] => IsDisposed ? throw Disposed($"the adapter '{name}'") : _adapters[name];

    /// <summary>Holds the model for one operation. A second one waits for its turn; where it is a part of the first, on another thread, it gets an error.</summary>
    /// <param name="operation">What is going on, for those who wait: <c>training</c>, <c>generation</c>.</param>
    /// <returns>Dispose it when the operation is over. Take it on the thread that does the work: calls from that thread go through.</returns>
    /// <seealso cref="OperationFlow"/>
    /// <exception cref="OperationCanceledException">The wait was cancelled.</exception>
    /// <exception cref="PeftException"><c>PeftModelBusy</c> or <c>ModelDisposed</c>.</exception>
    public IDisposable Acquire(string operation)
    {
        var held = _lease.Acquire(operation);
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
        _merge.Refuse();
        if (_adapters.Find(name) is not null)
        {
            throw new PeftException("AdapterExists", $"The model '{Name}' has an adapter '{name}' already.")
            {
                Target = name,
                RecommendedAction = "Choose another name, or remove that adapter first.",
            };
        }

        var adapter = AdapterFactory.Create(this, config, name, seed);
        _adapters.Insert(adapter);
        return adapter;
    }

    /// <summary>Loads an adapter from a folder as PEFT saved it. One of the same name is replaced.</summary>
    /// <param name="folder">The folder with <c>adapter_config.json</c> and <c>adapter_model.safetensors</c> or <c>.bin</c>.</param>
    /// <param name="name">The adapter's name; null for <c>default</c>.</param>
    /// <exception cref="PeftException">What is wrong with the files, or that they don't fit the model; nothing has changed then.</exception>
    /// <exception cref="NotSupportedByPeftException">A method or variant without code.</exception>
    public PeftAdapter LoadAdapter(string folder, string? name = null)
    {
        using var held = Acquire("loading an adapter");
        List<string> messages = [];
        using var growing = IsMerged ? null : Vocabulary.TakeUp(folder, messages);
        using var replacement = Replace(name ?? "default", () => AdapterFactory.Load(this, folder, name ?? "default", messages));
        growing?.Keep();
        return replacement.Adapter;
    }

    /// <summary>Puts an adapter that is made of a file in another format into the model, in the place of the one of its name.</summary>
    internal PeftAdapter LoadAdapter(string name, Func<PeftAdapter> make)
    {
        using var held = Acquire("loading an adapter");
        using var replacement = Replace(name, make);
        return replacement.Adapter;
    }

    /// <summary>Adds a new adapter, in the place of the one of its name where there is one, which comes back when the replacement is undone.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="seed">Makes the starting values repeatable; null draws another start each time.</param>
    /// <exception cref="PeftException">As <see cref="AddAdapter"/>, save <c>AdapterExists</c>; nothing has changed then.</exception>
    /// <exception cref="NotSupportedByPeftException">A variant without code, named by its key.</exception>
    public AdapterReplacement ReplaceAdapter(AdapterConfig config, string name = "default", ulong? seed = null)
    {
        using var held = Acquire("replacing an adapter");
        return Replace(name, () => AdapterFactory.Create(this, config, name, seed));
    }

    /// <summary>Activates adapters in this order, innermost first, each at full strength, and no others.</summary>
    public IReadOnlyList<string> SetActive(params IEnumerable<string> names) => SetActive(names.Select(static name => new ActiveAdapter(name)));

    /// <summary>Activates adapters in this order, innermost first, and no others. What is merged is restored first.</summary>
    /// <param name="set">Names and strengths; empty for the base alone.</param>
    /// <returns>What the user should know.</returns>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>AdapterNamedTwice</c>, <c>AdapterWeightInvalid</c> or <c>OverlaysConflict</c>.</exception>
    public IReadOnlyList<string> SetActive(IEnumerable<ActiveAdapter> set)
    {
        using var held = Acquire("choosing adapters");
        ActiveAdapter[] chosen = [.. set];
        AdapterSet.RefuseWeights(chosen);
        _adapters.RefuseConflicts([.. chosen.Select(static entry => entry.Name)]);
        List<string> messages = [];
        _merge.Restore(messages);
        _adapters.Activate(chosen);
        return messages;
    }

    /// <summary>A selection of adapters for a single pass, without changing what is active.</summary>
    /// <param name="names">Names in order, innermost first; none for the base.</param>
    /// <exception cref="PeftException">As <see cref="SetActive(IEnumerable{ActiveAdapter})"/>, and <c>ModelIsMerged</c>: what is merged can't be left out of a pass.</exception>
    public AdapterSelection Select(params IEnumerable<string> names)
    {
        string[] chosen = [.. names];
        _adapters.RefuseConflicts(chosen);
        if (!chosen.SequenceEqual(MergedAdapters))
        {
            _merge.Refuse($"another selection than {string.Join(", ", MergedAdapters)} can't be computed");
        }

        return chosen.Length == 0 ? AdapterSelection.Base : AdapterSelection.Of(chosen);
    }

    /// <summary>A selection for a mixed batch: another adapter, or none, for each row.</summary>
    /// <param name="rowNames">One name a row; <see cref="AdapterSelection.BaseRow"/> for the base alone.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>ModelIsMerged</c> or <c>MixedBatchNotPossible</c>.</exception>
    public AdapterSelection SelectRows(IReadOnlyList<string> rowNames)
    {
        _merge.Refuse("a mixed batch can't be computed");
        _adapters.RefuseRows(rowNames);
        return new AdapterSelection([], [.. rowNames]);
    }

    /// <summary>Lets the active adapters act again.</summary>
    public IReadOnlyList<string> Enable()
    {
        using var held = Acquire("enabling adapters");
        _adapters.Enable(true);
        return [];
    }

    /// <summary>Lets the base speak alone; the active set is kept. What is merged is restored first.</summary>
    /// <returns>What the user should know.</returns>
    public IReadOnlyList<string> Disable()
    {
        using var held = Acquire("disabling adapters");
        List<string> messages = [];
        _merge.Restore(messages);
        _adapters.Enable(false);
        return messages;
    }

    /// <summary>Removes an adapter and frees it. Where it was the only active one, the first of the others becomes active.</summary>
    /// <returns>What the user should know.</returns>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    public IReadOnlyList<string> RemoveAdapter(string name)
    {
        using var held = Acquire("removing an adapter");
        var adapter = this[name];
        List<string> messages = [];
        _merge.Restore(messages);
        _adapters.Drop(adapter, messages);
        return messages;
    }

    /// <summary>Quantises the weights of the base's linear layers in place; adapters stay on them. There is no way back but to import the model again.</summary>
    /// <param name="config">How.</param>
    /// <param name="cancellation">Looked at between layers; those that are packed already stay so, and the same call goes on with the rest.</param>
    /// <param name="onProgress">Told how many layers are packed, of how many.</param>
    /// <returns>How many layers were packed.</returns>
    /// <exception cref="PeftException">
    /// <c>QuantizationInvalid</c>, <c>NothingToQuantize</c>, <c>WeightsNotLoaded</c>, <c>WeightsPacked</c>, <c>ModelIsMerged</c>, or <c>WeightsEdited</c>: the start of an
    /// adapter took its part out of the base.
    /// </exception>
    public int Quantize(QuantizationConfig config, Action<int, int>? onProgress = null, CancellationToken cancellation = default)
    {
        using var held = Acquire("quantising");
        _merge.Refuse("its weights can't be quantised");
        if (Base.NamedParameters().FirstOrDefault(static named => named.Parameter.Edits is not null) is { Parameter: not null } edited)
        {
            throw new PeftException("WeightsEdited", $"An adapter of '{Name}' took its part out of the weights of '{edited.Path}', which it gives back when it goes; quantised weights can't take it.") { Target = edited.Path };
        }

        try
        {
            return ModelQuantizer.Quantize(Base, config, onProgress, cancellation).Count;
        }
        finally
        {
            _adapters.Activate([.. _adapters.Active]);
        }
    }

    /// <summary>
    /// Puts adapters into the weights, at their strengths in the active set or, those that aren't active, at full strength. They become the active set, and the model stays able to take them out again, bit for bit,
    /// unless <see cref="MergeOptions.Unload"/> makes it final. What was merged before stays merged, in front.
    /// </summary>
    /// <param name="names">The adapters in order, innermost first; null for the active ones.</param>
    /// <param name="options">How.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>NothingToMerge</c>, <c>OverlaysConflict</c>, <c>MergeNotPossible</c> or <c>MergeNotFinite</c>; nothing has changed then.</exception>
    public MergeReport Merge(IEnumerable<string>? names = null, MergeOptions? options = null)
    {
        using var held = Acquire("merging");
        options ??= new MergeOptions();
        return _merge.Apply(names, options with { OriginalPath = options.OriginalPath ?? Path });
    }

    /// <summary>Takes merged adapters out of the weights, bit for bit; what was active before the merge is active again.</summary>
    /// <returns>What the user should know.</returns>
    public IReadOnlyList<string> UndoMerge()
    {
        using var held = Acquire("undoing a merge");
        if (!IsMerged)
        {
            return [$"Nothing is merged into '{Name}'."];
        }

        _merge.Restore([]);
        return [];
    }

    /// <summary>
    /// Adds a new adapter made of others, as PEFT's <c>add_weighted_adapter</c> does: LoRA by any <see cref="CombinationType"/>, IA3 by a weighted sum.
    /// The parts stay as they are. The new adapter waits to be made active.
    /// </summary>
    /// <param name="names">The parts, all of one method.</param>
    /// <param name="weights">A weight for each; negative ones subtract.</param>
    /// <param name="name">The new adapter's name.</param>
    /// <param name="options">How; null for PEFT's defaults.</param>
    /// <param name="cancellation">Stops between layers; the model is then as before.</param>
    /// <exception cref="PeftException">
    /// <c>CombinationInvalid</c>: no parts, other weights than parts, a density that is missing or negative, or parts that can't be combined this way;
    /// <c>AdapterNotFound</c>, <c>AdapterExists</c>, <c>AdapterNameInvalid</c>, <c>WeightsNotLoaded</c> or <c>ModelIsMerged</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>CombinationNotSupported</c>: a method that has no combinations.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public PeftAdapter CombineAdapters(
        IReadOnlyList<string> names, IReadOnlyList<double> weights, string name, CombinationOptions? options = null, CancellationToken cancellation = default)
    {
        using var held = Acquire("combining adapters");
        return AdapterCombination.Combine(this, names, weights, name, options ?? new CombinationOptions(), cancellation);
    }

    /// <summary>Looks for NaN and infinity in the weights of base and adapters: one spoils everything that is computed with it, without an error.</summary>
    /// <param name="cancellation">Looked at between weights.</param>
    /// <returns>A sentence that names the first of them, or null where all are finite.</returns>
    /// <exception cref="PeftException"><c>PeftModelBusy</c> or <c>ModelDisposed</c>.</exception>
    public string? NonFiniteWarning(CancellationToken cancellation = default)
    {
        using var held = Acquire("looking at the weights");
        return WeightCheck.NonFinite(this, cancellation);
    }

    /// <summary>Frees base and adapters.</summary>
    public void Dispose()
    {
        using var held = _lease.Acquire("removing the model");
        if (!IsDisposed)
        {
            IsDisposed = true;
            _adapters.Clear();
            Base.Dispose();
            GC.SuppressFinalize(this);
        }
    }

    private AdapterReplacement Replace(string name, Func<PeftAdapter> make) =>
        AdapterReplacement.Make(_adapters, _merge, () => Acquire("undoing the replacement of an adapter"), name, make);

    private PeftException Disposed(string operation) => new("ModelDisposed", $"The weights of '{Name}' were freed; {operation} needs them.")
    {
        Target = Name,
        RecommendedAction = "Import the model again.",
    };
}
