using System.Text.Json.Nodes;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>A model of some family with its configuration: the root of a module tree.</summary>
public abstract class PretrainedModel : Module
{
    private readonly List<MappedFile> mappedFiles = [];

    /// <summary>Wraps a configuration.</summary>
    protected PretrainedModel(ModelConfig config)
    {
        Config = config;
    }

    /// <summary>The configuration the model was made from.</summary>
    public ModelConfig Config { get; }

    /// <summary>What <c>generation_config.json</c> holds, or null.</summary>
    public JsonObject? GenerationConfig { get; set; }

    /// <summary>Path of the input embedding, such as <c>model.embed_tokens</c>.</summary>
    public abstract string InputEmbeddings { get; }

    /// <summary>Path of the output embedding, such as <c>lm_head</c>, or null where there is none.</summary>
    public virtual string? OutputEmbeddings => null;

    /// <summary>Path of the freshly made head of a classifier (<c>score</c>), which is trained and saved whole; null where there is none.</summary>
    public virtual string? ClassificationHead => null;

    /// <summary>The name under which the bare model stands in checkpoints of models with a head, such as <c>model</c>.</summary>
    public virtual string BasePrefix => "model";

    /// <summary>Parameters that share the weights of others: the second follows the first.</summary>
    public virtual IEnumerable<(string Owner, string Follower)> TiedParameters => [];

    /// <summary>Called when all weights are there: puts weights that are used together into one tensor.</summary>
    public virtual void AfterLoad()
    {
    }

    /// <summary>Type of the weights that compute: the input embedding's.</summary>
    public ScalarType DataType => Find(InputEmbeddings)!.Parameters[0].DataType;

    /// <summary>Whether weights are there.</summary>
    public bool IsLoaded => Find(InputEmbeddings)!.Parameters[0].Value is not null;

    /// <summary>Parameter by full path, or null.</summary>
    public Parameter? FindParameter(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        var dot = path.LastIndexOf('.');
        return Find(dot < 0 ? "" : path[..dot])?.Parameters.FirstOrDefault(parameter => parameter.Name == path[(dot + 1)..]);
    }

    /// <summary>Makes a model ready whose weights were assigned one by one: ties what shares weights, joins what is used together.</summary>
    public void Prepare()
    {
        Tie();
        AfterLoad();
    }

    /// <summary>Takes over the files that the weights lie in.</summary>
    internal void Keep(IEnumerable<MappedFile> files) => mappedFiles.AddRange(files);

    /// <summary>Refuses weights whose files were written over since they were loaded; every operation begins with it.</summary>
    /// <exception cref="PeftException"><c>FileChanged</c>.</exception>
    internal void RefuseChangedFiles()
    {
        foreach (var file in mappedFiles)
        {
            file.RefuseChange();
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        foreach (var file in mappedFiles)
        {
            file.Dispose();
        }

        mappedFiles.Clear();
    }

    /// <summary>Lets the followers of <see cref="TiedParameters"/> share their owners' weights.</summary>
    internal void Tie()
    {
        foreach (var (owner, follower) in TiedParameters)
        {
            FindParameter(follower)!.TieTo(FindParameter(owner)!);
        }
    }
}

/// <summary>A model that continues text.</summary>
public abstract class CausalModel : PretrainedModel
{
    /// <summary>Wraps a configuration.</summary>
    protected CausalModel(ModelConfig config)
        : base(config)
    {
    }

    /// <summary>Size of the vocabulary: the width of the logits.</summary>
    public abstract long VocabularySize { get; }

    /// <summary>The output layer and its loss.</summary>
    protected abstract Head Head { get; }

    /// <summary>Hidden states of tokens after the final norm.</summary>
    /// <param name="ids">int64 [rows, length].</param>
    /// <param name="context">The forward pass; its rows and length are taken from <paramref name="ids"/>.</param>
    /// <returns>[rows · length, hidden size].</returns>
    public Tensor Hidden(Tensor ids, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(ids);
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        var batch = context with { Rows = ids.size(0), Length = ids.size(1) };
        return HiddenFromEmbeddings(Embed(ids, batch), batch).MoveToOuterDisposeScope();
    }

    /// <summary>Vectors of tokens as the first layer takes them.</summary>
    /// <param name="ids">int64 [rows, length].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, hidden size].</returns>
    public abstract Tensor Embed(Tensor ids, ForwardContext context);

    /// <summary>Hidden states of vectors after the final norm (prompt methods put vectors of their own in front).</summary>
    /// <param name="embeddings">[rows · length, hidden size]; in training known to the tape.</param>
    /// <param name="context">The forward pass, with its rows and length.</param>
    /// <returns>[rows · length, hidden size].</returns>
    public abstract Tensor HiddenFromEmbeddings(Tensor embeddings, ForwardContext context);

    /// <summary>Logits of hidden states; not for training.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[n, vocabulary], in the hidden states' type.</returns>
    public Tensor Logits(Tensor hidden, ForwardContext context) => Head.Logits(hidden, context);

    /// <inheritdoc cref="Layers.Head.Loss"/>
    public Tensor Loss(Tensor hidden, Tensor labels, double? divisor, ForwardContext context, double labelSmoothing = 0) =>
        Head.Loss(hidden, labels, divisor, context, labelSmoothing);

    /// <inheritdoc cref="Layers.Head.TokenLosses"/>
    public Tensor TokenLosses(Tensor hidden, Tensor labels, ForwardContext context) => Head.TokenLosses(hidden, labels, context);
}
