using System.Text.Json.Nodes;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Models.Placement;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>A model of some family with its configuration: the root of a module tree, usually a head over a backbone.</summary>
public abstract class PretrainedModel : Module
{
    private readonly Backbone? _backbone;
    private readonly List<MappedFile> _mappedFiles = [];
    private readonly List<(string Name, Tensor Tensor)> _carried = [];

    /// <summary>Wraps a backbone.</summary>
    /// <param name="backbone">The backbone; whoever derives adds it to the tree.</param>
    /// <param name="className">transformers' class name, such as <c>LlamaForCausalLM</c>.</param>
    protected PretrainedModel(Backbone backbone, string className)
        : base(className)
    {
        ArgumentNullException.ThrowIfNull(backbone);
        _backbone = backbone;
        Config = backbone.Config.Outer ?? backbone.Config;
    }

    /// <summary>Makes a model that is no head over a backbone (a UNet, an autoencoder): whoever derives gives it a pass of its own.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="className">The class name that its tree prints.</param>
    protected PretrainedModel(ModelConfig config, string className)
        : base(className) => Config = config;

    /// <summary>What turns inputs into hidden states.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>BackboneMissing</c>: the model is computed otherwise.</exception>
    public Backbone Backbone => _backbone ?? throw new NotSupportedByPeftException("BackboneMissing", $"{ClassName} computes no hidden states of tokens, which this needs.")
    {
        RecommendedAction = "Use a language model for this.",
    };

    /// <summary>Number of tokens that it reads; 0 where it is computed otherwise.</summary>
    public virtual long VocabularySize => _backbone?.TokenEmbeddings?.Count ?? 0;

    /// <summary>The configuration the model was made from.</summary>
    public ModelConfig Config { get; }

    /// <summary>How files call what the tree calls otherwise.</summary>
    public virtual KeyMap Keys => _backbone is null || ReferenceEquals(Config, Backbone.Config) ? KeysOf(Config) : KeysOf(Backbone.Config).Then(KeysOf(Config));

    /// <summary>Its digest as it was when the first adapter was put on it; null before.</summary>
    internal string? Digest { get; set; }

    /// <summary>What <c>generation_config.json</c> holds, or null.</summary>
    public JsonObject? GenerationConfig { get; set; }

    /// <summary>What <c>preprocessor_config.json</c> holds, which says how images become pixels; or null.</summary>
    public JsonObject? PreprocessorConfig { get; set; }

    /// <summary>Path of the output embedding, such as <c>lm_head</c>, or null where there is none.</summary>
    public virtual string? OutputEmbeddings => null;

    /// <summary>Path of the freshly made head of a classifier (<c>score</c>), which is trained and saved whole; null where there is none.</summary>
    public virtual string? ClassificationHead => null;

    /// <summary>Paths of modules that are made afresh where a file holds the backbone alone.</summary>
    public virtual IReadOnlyList<string> FreshModules => ClassificationHead is { } head ? [head] : [];

    /// <summary>Parameters that share the weights of others: the second follows the first.</summary>
    public virtual IEnumerable<(string Owner, string Follower)> TiedParameters =>
        _backbone?.TiedParameters.Select(tie => (PathBelow(_backbone, tie.Owner), PathBelow(_backbone, tie.Follower))) ?? [];

    /// <summary><see cref="TiedParameters"/>, and those that share weights where a file holds one of the two alone, whatever the configuration says.</summary>
    public virtual IEnumerable<(string Owner, string Follower)> PossibleTies => TiedParameters;

    /// <summary>The modules that adapters may target, parents first: all of them, but for parts of a larger model that aren't adapted.</summary>
    public virtual IEnumerable<Module> AdaptableModules => Descendants();

    /// <summary>Type of the weights: the first parameter's.</summary>
    public ScalarType DataType => First.DataType;

    /// <summary>Device that computes: the first parameter's; the CPU while only the structure exists.</summary>
    public Device Device => Residency?.Computing ?? First.Value?.device ?? CPU;

    /// <summary>Where modules lie, where a device map was asked for; empty otherwise.</summary>
    public IReadOnlyList<ModulePlacement> DeviceMap => Residency?.Map.Rows ?? [];

    /// <summary>Brings weights that lie elsewhere to the device that computes; null where no device map was asked for.</summary>
    internal Residency? Residency { get; set; }

    /// <summary>Whether weights are there.</summary>
    public bool IsLoaded => First.IsLoaded;

    /// <summary>Tensors of the model's files that no module of ours computes with; they are saved again as they came.</summary>
    public IReadOnlyList<(string Name, Tensor Tensor)> Carried => _carried;

    /// <summary>Where each parameter stood in the files it was read from, by its path.</summary>
    internal Dictionary<string, IReadOnlyList<FilePart>> Places { get; } = [];

    private Parameter First => NamedParameters().First().Parameter;

    /// <summary>The pass to the last hidden states, with a prompt's virtual tokens in front.</summary>
    /// <param name="inputs">What goes in; token ids alone convert by themselves.</param>
    /// <param name="context">The forward pass; its rows and length are taken from the ids.</param>
    public BackboneOutput Forward(ModelInputs inputs, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(inputs);
        ArgumentNullException.ThrowIfNull(context);
        if (inputs.Pixels is not null && !Backbone.ReadsImages)
        {
            throw new NotSupportedByPeftException("ImagesNotSupported", $"A model of the type '{Config.ModelType}' is computed for text alone, and was given an image.")
            {
                RecommendedAction = "Give text without images; the parts that read images are kept and saved unchanged.",
            };
        }

        using var scope = NewDisposeScope();
        context = inputs.Ids is { } ids ? Told(ids, context with { Rows = ids.size(0), Length = ids.size(1) })
            : inputs.Pixels is { } pixels ? context with { Rows = pixels.size(0), Length = Backbone.Image!.Positions } : context;
        var embeddings = inputs.Encoded?.Hidden ?? inputs.Embeddings ?? Backbone.Embed(inputs, context);
        var (placed, virtualLength, pass) = PromptPlacement.Place(embeddings, context, isPlaced: inputs.Encoded is not null);
        var output = Backbone.Forward(placed, inputs, pass) with { Inputs = inputs };
        context.Cache?.Advance(output.Length);

        // Virtual tokens stand in front of what an encoder reads, not of the decoder's.
        output = output.Encoded is null ? output with { VirtualLength = virtualLength } : output;
        return output.MoveToOuterDisposeScope();
    }

    /// <summary>The pass completed by those who wait for its tokens.</summary>
    private static ForwardContext Told(Tensor ids, ForwardContext context) => context.OnTokens is { } complete
        ? complete(context.Cache?.State<TokenHistory>(TokenHistory.Place).Append(ids) ?? ids, context)
        : context;

    /// <summary>The tokens of a text for one of the model's tables of tokens; null where the model has no tokenizer of its own for it.</summary>
    /// <param name="table">The table.</param>
    /// <param name="text">The text.</param>
    internal virtual IReadOnlyList<int>? TokensOf(Module table, string text) => null;

    /// <summary>Parameter by full path, or null.</summary>
    public Parameter? FindParameter(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        var dot = path.LastIndexOf('.');
        return Find(dot < 0 ? "" : path[..dot])?.Parameters.FirstOrDefault(parameter => parameter.Name == path[(dot + 1)..]);
    }

    /// <summary>
    /// Adds a head that scores rows beside the model's own, over the same hidden states: a reward beside the next token. Its weights are fresh;
    /// an adapter that names it in <c>modules_to_save</c> trains it and keeps it in its file.
    /// </summary>
    /// <param name="name">Its name in the tree, such as <c>score</c>.</param>
    /// <param name="labels">Number of scores a row has.</param>
    /// <returns>The head.</returns>
    /// <exception cref="PeftException"><c>HeadNameTaken</c>.</exception>
    public LastTokenHead AddHead(string name, long labels)
    {
        if (Find(name) is not null)
        {
            throw new PeftException("HeadNameTaken", $"The model has a module '{name}' already.") { Target = name };
        }

        var layer = Add(name, new Linear(Backbone.Width, labels));
        if (IsLoaded)
        {
            layer.Weight.Assign(empty(layer.Weight.Shape.ToArray(), DataType, Device).normal_(0, Config.Number("initializer_range") ?? 0.02));
        }

        return new LastTokenHead(layer, Config);
    }

    /// <summary>Takes a head away that <see cref="AddHead"/> added; no adapter has a copy of it any more.</summary>
    /// <param name="head">The head.</param>
    internal void RemoveHead(LastTokenHead head) => Remove(head.Layer);

    /// <summary>Makes a model ready whose weights were assigned one by one: ties what shares weights, joins what is used together.</summary>
    public void Prepare()
    {
        Tie();
        Fuse();
    }

    /// <summary>Puts weights that are used together into one tensor, and those of convolutions into their images' order (again, after they were replaced).</summary>
    public void Fuse()
    {
        foreach (var group in Descendants().SelectMany(static module => module.Groups))
        {
            group.Fuse();
        }

        foreach (var convolution in Descendants().OfType<Convolution>())
        {
            convolution.Arrange();
        }
    }

    /// <summary>Has weights that are used together put into one tensor, and those of convolutions into their images' order, when they are first used.</summary>
    /// <param name="isMapped">Whether a tensor's memory is that of a file.</param>
    internal void FuseWhenUsed(Func<Tensor, bool> isMapped)
    {
        foreach (var group in Descendants().SelectMany(static module => module.Groups))
        {
            group.FuseWhenUsed(isMapped);
        }

        foreach (var convolution in Descendants().OfType<Convolution>())
        {
            convolution.ArrangeWhenUsed(isMapped);
        }
    }

    /// <summary>Saves the model; see <see cref="ModelLoader.Save(PretrainedModel, string, ScalarType?, long, Action{long, long}?, CancellationToken)"/>.</summary>
    internal virtual IReadOnlyList<string> SaveTo(
        string path, CompanionFiles? companions, ScalarType? dataType, long maxShardBytes, Action<long, long>? onProgress, CancellationToken cancellation) =>
        ModelLoader.Save(this, path, companions, dataType, maxShardBytes, onProgress, cancellation);

    /// <summary>Whether a path stands for a file and not a folder when the model is saved there.</summary>
    /// <param name="path">The path.</param>
    public virtual bool IsSavedAsFile(string path) => false;

    /// <summary>Takes over the files that the weights lie in.</summary>
    internal void Keep(IEnumerable<MappedFile> files) => _mappedFiles.AddRange(files);

    /// <summary>Refuses weights whose files were written over since they were loaded; every operation begins with it.</summary>
    /// <exception cref="PeftException"><c>FileChanged</c>.</exception>
    internal void RefuseChangedFiles()
    {
        foreach (var file in _mappedFiles)
        {
            file.RefuseChange();
        }
    }

    /// <summary>Lets the followers of <see cref="TiedParameters"/> share their owners' weights.</summary>
    internal void Tie()
    {
        foreach (var (owner, follower) in TiedParameters)
        {
            FindParameter(follower)!.TieTo(FindParameter(owner)!);
        }
    }

    /// <summary>How blocks stand in the stack several times over, or null.</summary>
    internal LayerReplication? Replication { get; set; }

    /// <summary>Whether it is a head over a backbone, or a backbone.</summary>
    internal bool HasBackbone => _backbone is not null;

    /// <summary>Path of the backbone; empty where its modules stand at the root, or where there is none.</summary>
    internal string BackbonePath => _backbone?.Path ?? "";

    /// <summary>Has another tensor in the place of a carried one, which goes to the caller.</summary>
    internal Tensor ExchangeCarried(string name, Tensor tensor)
    {
        var place = _carried.FindIndex(entry => entry.Name == name);
        var before = _carried[place].Tensor;
        _carried[place] = (name, tensor.DetachFromDisposeScope());
        return before;
    }

    /// <summary>Keeps a tensor that is only saved again.</summary>
    internal void Carry(string name, Tensor tensor) => _carried.Add((name, tensor.DetachFromDisposeScope()));

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _carried.ForEach(static entry => entry.Tensor.Dispose());
            _carried.Clear();
        }

        base.Dispose(disposing);
        Residency?.Dispose();
        _mappedFiles.ForEach(static file => file.Dispose());
        _mappedFiles.Clear();
    }

    /// <summary>
    /// Puts the backbone into the tree under its name, such as <c>model</c>, or <c>model.language_model</c> in a model of several parts;
    /// without a name its modules stand at the root.
    /// </summary>
    /// <param name="prefix">The name; null for the family's.</param>
    protected void AddBackbone(string? prefix = null)
    {
        prefix ??= Config.Family.Prefix;
        var dot = prefix.IndexOf('.', StringComparison.Ordinal);
        if (prefix.Length == 0)
        {
            Adopt(Backbone);
        }
        else if (dot < 0)
        {
            _ = Config.Family.ListsBackboneLast ? AddLast(prefix, Backbone) : Add(prefix, Backbone);
        }
        else
        {
            Add(prefix[..dot], new Part(Config.Family.Stem + "Model", prefix[(dot + 1)..], Backbone));
        }
    }

    /// <summary>The parts of a model of several, of which only text is computed.</summary>
    private sealed class Part : Module
    {
        public Part(string className, string name, Module part)
            : base(className) => Add(name, part);
    }

    private static KeyMap KeysOf(ModelConfig config) => config.KnownFamily?.Keys ?? KeyMap.Identity;

    private static string PathBelow(Module module, string path) => module.Path.Length == 0 ? path : $"{module.Path}.{path}";
}
