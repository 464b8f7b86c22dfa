using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What all layers of a pass share.</summary>
/// <param name="Rotary">Positions; null for none.</param>
/// <param name="Plans">Who sees whom, by window (0 for none).</param>
/// <param name="Layout">Rows as recurrences read them.</param>
internal sealed record LlamaPass(RotaryTables? Rotary, IReadOnlyDictionary<long, AttentionPlan> Plans, SequenceLayout Layout)
{
    /// <summary>Positions of layers with a window, where theirs are others.</summary>
    public RotaryTables? LocalRotary { get; init; }

    /// <summary>Positions of a layer by its window.</summary>
    public RotaryTables? RotaryOf(long window) => window > 0 ? LocalRotary ?? Rotary : Rotary;
}

/// <summary>What lets a position see others: attention, or a recurrence in its place.</summary>
/// <param name="className">transformers' class name.</param>
/// <param name="localName">Its name in the block.</param>
internal abstract class LlamaMixer(string className, string localName = "self_attn") : Module(className)
{
    /// <summary>Its name in the block.</summary>
    public string LocalName => localName;

    /// <summary>Runs it on x, [rows · length, width], and adds the result to <paramref name="residual"/> where there is one.</summary>
    public abstract Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context);
}

/// <summary>Attention with rotary positions and grouped key and value heads.</summary>
internal sealed class LlamaAttention : LlamaMixer
{
    private readonly AttentionShape shape;
    private readonly LinearGroup projections;
    private readonly Linear output;
    private readonly RmsNorm? queryNorm;
    private readonly RmsNorm? keyNorm;
    private readonly Parameter? sinks;
    private readonly int layer;
    private readonly long window;
    private readonly bool hasRotary;

    public LlamaAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention")
    {
        this.layer = layer;
        window = config.Window(layer) ?? 0;
        hasRotary = config.HasRotary(layer);
        shape = config.Attention;
        var queries = Add("q_proj", new Linear(config.HiddenSize, shape.Heads * shape.HeadSize, config.ProjectionBias));
        var keys = Add("k_proj", new Linear(config.HiddenSize, shape.KeyValueHeads * shape.HeadSize, config.ProjectionBias));
        var values = Add("v_proj", new Linear(config.HiddenSize, shape.KeyValueHeads * shape.HeadSize, config.ProjectionBias));
        output = Add(config.Names.Output, new Linear(shape.Heads * shape.HeadSize, config.HiddenSize, config.AttentionBias && config.Traits.HasOutputBias));
        sinks = config.HasSinks ? AddParameter("sinks", [shape.Heads]) : null;
        if (config.HasHeadNorms)
        {
            var together = config.Traits.NormsHeadsTogether;
            queryNorm = Add(config.Names.QueryNorm, config.Norm(together ? shape.Heads * shape.HeadSize : shape.HeadSize));
            keyNorm = Add(config.Names.KeyNorm, config.Norm(together ? shape.KeyValueHeads * shape.HeadSize : shape.HeadSize));
        }

        projections = Group(queries, keys, values);
    }

    /// <summary>Attention of x, added to <paramref name="residual"/>.</summary>
    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context) =>
        output.Forward(Attend(projections.Forward(x, context), pass, context), context, residual);

    private Tensor Attend(Tensor projected, LlamaPass pass, ForwardContext context)
    {
        var rotary = hasRotary ? pass.RotaryOf(window) : null;
        if (queryNorm is null || keyNorm is null)
        {
            return Attention.Forward(projected, shape, rotary, pass.Plans[window], layer, context, new ScoreTerms(Sinks: sinks));
        }

        var width = shape.KeyValueHeads * shape.HeadSize;
        var parts = Splitting.Forward(projected, [shape.Heads * shape.HeadSize, width, width], context);
        return Attention.Forward(
            queryNorm.Forward(parts[0], context), keyNorm.Forward(parts[1], context), parts[2], shape, rotary, pass.Plans[window], layer, context);
    }
}

/// <summary>The gated MLP: down(act(gate(x)) · up(x)).</summary>
internal sealed class LlamaMLP : FeedForward
{
    private readonly LinearGroup projections;
    private readonly Linear down;
    private readonly Activation activation;

    public LlamaMLP(LlamaConfig config, long? innerSize = null)
        : base(config.Stem + "MLP")
    {
        var inner = innerSize ?? config.InnerSize;
        var names = config.Names.Mlp;
        var gate = Add(names[0], new Linear(config.HiddenSize, inner, config.MlpBias));
        var up = Add(names[1], new Linear(config.HiddenSize, inner, config.MlpBias));
        down = Add(names[2], new Linear(inner, config.HiddenSize, config.MlpBias));
        activation = new Activation(config.ActivationName);
        if (config.Names.ListsActivation)
        {
            Add("act_fn", activation);
        }

        projections = Group(gate, up);
    }

    public override IReadOnlyList<Tensor> Forward(Tensor x, Tensor? residual, ForwardContext context) => [Compute(x, residual, context)];

    /// <summary>The MLP of x, added to <paramref name="residual"/> where there is one.</summary>
    public Tensor Compute(Tensor x, Tensor? residual, ForwardContext context) => down.Forward(
        GatedActivation.Forward(projections.Forward(x, context), activation, context), context, residual);
}

/// <summary>
/// A block: x + attention(norm(x)), then x + mlp(norm(x)); in some families with norms of what is added instead or as well, and a factor on it.
/// </summary>
internal sealed class LlamaDecoderLayer : Module
{
    private readonly LlamaMixer attention;
    private readonly FeedForward mlp;
    private readonly RmsNorm? inputNorm;
    private readonly RmsNorm? attentionNorm;
    private readonly RmsNorm? innerNorm;
    private readonly RmsNorm? outputNorm;
    private readonly Dropout? attentionDropout;
    private readonly Dropout? outputDropout;
    private readonly double scale;

    public LlamaDecoderLayer(LlamaConfig config, int layer)
        : base(config.Stem + "DecoderLayer")
    {
        var names = config.Names;
        scale = config.ResidualScale;
        attention = config.Mixer(layer);
        Add(attention.LocalName, attention);
        mlp = Add(names.FeedForward, config.FeedForward(layer));
        inputNorm = Norm(names.InputNorm);
        innerNorm = names.ListsInnerNormFirst ? Norm(names.InnerNorm) : null;
        attentionNorm = Norm(names.AttentionNorm);
        innerNorm ??= Norm(names.InnerNorm);
        outputNorm = Norm(names.OutputNorm);
        if (names.Dropouts is { } dropouts)
        {
            attentionDropout = Add(dropouts.Attention, new Dropout(config.Source.Number("resid_pdrop") ?? 0));
            outputDropout = Add(dropouts.FeedForward, new Dropout(config.Source.Number("resid_pdrop") ?? 0));
        }

        RmsNorm? Norm(string? name) => name is null ? null : Add(name, config.Norm(config.HiddenSize));
    }

    public IReadOnlyList<Tensor> Forward(Tensor x, LlamaPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var normed = inputNorm?.Forward(x, context) ?? x;
        var attended = IsPlain(attentionNorm, attentionDropout, context)
            ? attention.Forward(normed, x, pass, context)
            : Sum(x, attention.Forward(normed, null, pass, context), attentionNorm, attentionDropout, context);
        normed = innerNorm?.Forward(attended, context) ?? attended;
        if (IsPlain(outputNorm, outputDropout, context))
        {
            return DecoderStack.Kept(mlp.Forward(normed, attended, context));
        }

        var outputs = mlp.Forward(normed, null, context);
        return DecoderStack.Kept([Sum(attended, outputs[0], outputNorm, outputDropout, context), .. outputs.Skip(1)]);
    }

    /// <summary>Whether what is added can be added in the product that forms it.</summary>
    private bool IsPlain(RmsNorm? norm, Dropout? dropout, ForwardContext context) => norm is null && scale == 1 && dropout?.Acts(context) != true;

    private Tensor Sum(Tensor x, Tensor added, RmsNorm? norm, Dropout? dropout, ForwardContext context)
    {
        added = norm?.Forward(added, context) ?? added;
        return ResidualSum.Forward(x, dropout?.Forward(added, context) ?? added, context, scale);
    }
}

/// <summary>The stack of blocks between the embedding and the final norm.</summary>
internal sealed class LlamaModel : Backbone
{
    private readonly ModuleList<LlamaDecoderLayer> layers;
    private readonly RmsNorm norm;
    private readonly RotaryEmbedding rotary;
    private readonly RotaryEmbedding? localRotary;
    private readonly long[] windows;
    private readonly double scale;

    public LlamaModel(ModelConfig source, LlamaTraits? traits = null)
        : base(source, source.Family.Stem + traits?.Part + "Model")
    {
        traits ??= new LlamaTraits();
        var config = new LlamaConfig(source, traits);
        Width = config.HiddenSize;
        scale = source.Number("embedding_multiplier") ?? 1;
        TokenEmbeddings = Add("embed_tokens", new Embedding(
            config.VocabularySize, Width, source.Integer("pad_token_id"), traits.EmbeddingScale?.ClassName ?? "Embedding", traits.EmbeddingScale?.Of(Width) ?? 1));
        layers = Add("layers", new ModuleList<LlamaDecoderLayer>(Enumerable.Range(0, config.Layers).Select(i => new LlamaDecoderLayer(config, i))));
        norm = config.Norm(config.HiddenSize);
        rotary = config.Rotary(isLocal: false);
        localRotary = traits.LocalBase is null ? null : config.Rotary(isLocal: true);
        if (traits.Names.ListsRotaryFirst)
        {
            Add(traits.Names.Rotary, rotary);
        }

        Add(traits.Names.FinalNorm, norm);
        if (!traits.Names.ListsRotaryFirst)
        {
            Add(traits.Names.Rotary, rotary);
        }

        windows = [.. Enumerable.Range(0, config.Layers).Select(i => config.Window(i) ?? 0).Distinct()];
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings { get; }

    public override bool CanContinue(long from, long to) => rotary.CanContinue(from, to);

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var (type, device) = (embeddings.dtype, embeddings.device);
        var pass = new LlamaPass(
            rotary.For(context, type, device),
            windows.ToDictionary(static window => window, window => AttentionPlan.Causal(context, device, window == 0 ? null : window)),
            SequenceLayout.For(context, device))
        {
            LocalRotary = localRotary?.For(context, type, device),
        };
        var grown = scale == 1 ? embeddings : ParameterTensor.Run(values => values[0] * scale, [embeddings], [], context);
        var stack = DecoderStack.Run(layers.Items, grown, [], context, (layer, inputs, inner) => layer.Forward(inputs[0], pass, inner));
        var routers = stack.AllSides;
        return new BackboneOutput(norm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs,
            RouterLogits = routers,
            AuxiliaryLoss = RouterBalance.Loss(Config, routers, context),
        };
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            localRotary?.Dispose();
        }

        base.Dispose(disposing);
    }
}
