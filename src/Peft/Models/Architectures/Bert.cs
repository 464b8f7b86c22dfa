using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>In what families differ that are built like BERT.</summary>
/// <param name="PositionsFollowPadding">Whether positions count tokens alone, from the padding token's index on, and padding has that index (RoBERTa).</param>
/// <param name="HasEmbeddingSize">Whether token vectors have a width of their own, and are brought to the model's (ELECTRA).</param>
internal sealed record BertTraits(bool PositionsFollowPadding = false, bool HasEmbeddingSize = false);

/// <summary>What the configuration of a BERT or a relative of it says; what it leaves out is as in the base model (Devlin et al. 2019).</summary>
internal sealed class BertConfig
{
    public BertConfig(ModelConfig config, BertTraits? traits = null)
    {
        Source = config;
        Traits = traits ?? new BertTraits();
        HiddenSize = config.Size("hidden_size", 768);
        EmbeddingSize = Traits.HasEmbeddingSize ? config.Size("embedding_size", 128) : HiddenSize;
        InnerSize = config.Size("intermediate_size", 3072);
        Layers = (int)config.Size("num_hidden_layers", 12, least: 0, most: 10_000);
        NormEpsilon = config.Number("layer_norm_eps") ?? 1e-12;
        DropoutRate = config.Number("hidden_dropout_prob") ?? 0.1;
        ActivationName = config.String("hidden_act") ?? "gelu";
        Padding = config.Integer("pad_token_id");
        Attention = EncoderShape.Of(HiddenSize, config.Size("num_attention_heads", 12), config.Number("attention_probs_dropout_prob") ?? 0.1);
    }

    public ModelConfig Source { get; }

    public BertTraits Traits { get; }

    public long HiddenSize { get; }

    public long EmbeddingSize { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public double NormEpsilon { get; }

    public double DropoutRate { get; }

    public double HeadDropout => Source.Number("classifier_dropout") ?? DropoutRate;

    public string ActivationName { get; }

    public long? Padding { get; }

    public AttentionShape Attention { get; }

    public string Stem => Source.Family.Stem;

    public LayerNorm Norm(long? size = null) => new(size ?? HiddenSize, NormEpsilon);
}

/// <summary>The shape of an encoder's attention, in which all heads have keys and values of their own.</summary>
internal static class EncoderShape
{
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>.</exception>
    public static AttentionShape Of(long width, long heads, double dropout)
    {
        if (width % heads != 0)
        {
            throw new PeftException("ModelConfigInvalid", $"{heads} attention heads can't share a width of {width} evenly.");
        }

        return new AttentionShape(heads, heads, width / heads, 1 / Math.Sqrt((double)width / heads)) { Dropout = dropout };
    }
}

/// <summary>Vectors of tokens, of the part of a pair they belong to, and of their positions, normed.</summary>
internal sealed class BertEmbeddings : Module
{
    private readonly BertConfig _config;
    private readonly Embedding _positions;
    private readonly Embedding _types;
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;

    public BertEmbeddings(BertConfig config)
        : base(config.Stem + "Embeddings")
    {
        _config = config;
        var (source, size) = (config.Source, config.EmbeddingSize);
        Words = Add("word_embeddings", new Embedding(source.Size("vocab_size", 30522), size, config.Padding));
        _positions = new Embedding(source.Size("max_position_embeddings", 512), size, config.Traits.PositionsFollowPadding ? config.Padding : null);
        if (!config.Traits.PositionsFollowPadding)
        {
            Add("position_embeddings", _positions);
        }

        _types = Add("token_type_embeddings", new Embedding(source.Size("type_vocab_size", 2), size));
        _norm = Add("LayerNorm", config.Norm(size));
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
        if (config.Traits.PositionsFollowPadding)
        {
            Add("position_embeddings", _positions);
        }
    }

    public Embedding Words { get; }

    public Tensor Forward(Tensor words, ModelInputs inputs, ForwardContext context)
    {
        var sum = ResidualSum.Forward(words, _types.Forward(TokenTypes(inputs, context, words.device), context), context);
        sum = ResidualSum.Forward(sum, Positions(inputs, context, words.device), context);
        return _dropout.Forward(_norm.Forward(sum, context), context);
    }

    /// <summary>Tokens are of the first kind where nobody says; virtual ones in front always are.</summary>
    public static Tensor TokenTypes(ModelInputs inputs, ForwardContext context, Device device)
    {
        if (inputs.TokenTypes is not { } given)
        {
            return zeros([context.Rows, context.Length], ScalarType.Int64, device);
        }

        var added = context.Length - given.size(1);
        return added == 0 ? given : cat([zeros([context.Rows, added], given.dtype, given.device), given], 1);
    }

    private Tensor Positions(ModelInputs inputs, ForwardContext context, Device device)
    {
        if (!_config.Traits.PositionsFollowPadding)
        {
            return LearnedPositions.Forward(_positions, context, device);
        }

        // Where virtual tokens stand in front, transformers counts through padding.
        var padding = _config.Padding ?? 0;
        if (context.Positions is null && inputs.Ids is { } ids && ids.size(1) == context.Length)
        {
            var tokens = ids.ne(padding).to(ScalarType.Int64);
            context = context with { Positions = tokens.cumsum(1).mul(tokens).sub(1) };
        }

        return LearnedPositions.Forward(_positions, context, device, padding + 1);
    }
}

/// <summary>Attention in which every token sees all others.</summary>
internal sealed class BertSelfAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly LinearGroup _projections;

    public BertSelfAttention(BertConfig config, int layer)
        : base(config.Stem + "SelfAttention")
    {
        Layer = layer;
        _shape = config.Attention;
        var queries = Add("query", new Linear(config.HiddenSize, config.HiddenSize, hasBias: true));
        var keys = Add("key", new Linear(config.HiddenSize, config.HiddenSize, hasBias: true));
        var values = Add("value", new Linear(config.HiddenSize, config.HiddenSize, hasBias: true));
        Add("dropout", new Dropout(_shape.Dropout));
        _projections = Group(queries, keys, values);
    }

    /// <summary>Index of its block.</summary>
    public int Layer { get; set; }

    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context) =>
        Attention.Forward(_projections.Forward(x, context), _shape, null, plan, Layer, context);
}

/// <summary>norm(residual + dropout(dense(x))): what ends both halves of a block.</summary>
internal sealed class BertOutput : Module
{
    private readonly Linear _dense;
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;

    public BertOutput(BertConfig config, long inputs, string suffix)
        : base(config.Stem + suffix)
    {
        _dense = Add("dense", new Linear(inputs, config.HiddenSize, hasBias: true));
        _norm = Add("LayerNorm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context) => _norm.Forward(_dropout.AddProjection(_dense, x, residual, context), context);
}

/// <summary>Attention with what ends its half of a block.</summary>
/// <typeparam name="T">The kind of attention.</typeparam>
internal sealed class BertAttention<T> : Module
    where T : Module
{
    private readonly BertOutput _output;

    public BertAttention(BertConfig config, T attention)
        : base(config.Stem + "Attention")
    {
        Self = Add("self", attention);
        _output = Add("output", new BertOutput(config, config.HiddenSize, "SelfOutput"));
    }

    public T Self { get; }

    public Tensor Forward(Tensor attended, Tensor residual, ForwardContext context) => _output.Forward(attended, residual, context);
}

/// <summary>The first layer of a block's MLP.</summary>
internal sealed class BertIntermediate : Module
{
    private readonly Linear _dense;
    private readonly Activation _activation;

    public BertIntermediate(BertConfig config)
        : base(config.Stem + "Intermediate")
    {
        _dense = Add("dense", new Linear(config.HiddenSize, config.InnerSize, hasBias: true));
        _activation = Add("intermediate_act_fn", new Activation(config.ActivationName));
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _activation.Forward(_dense.Forward(x, context), context);
}

/// <summary>A block: norm(x + attention(x)), then norm(x + mlp(x)).</summary>
/// <typeparam name="T">The kind of attention.</typeparam>
internal sealed class BertLayer<T> : Module
    where T : Module
{
    private readonly BertAttention<T> _attention;
    private readonly BertIntermediate _intermediate;
    private readonly BertOutput _output;

    public BertLayer(BertConfig config, T self)
        : base(config.Stem + "Layer")
    {
        _attention = Add("attention", new BertAttention<T>(config, self));
        _intermediate = Add("intermediate", new BertIntermediate(config));
        _output = Add("output", new BertOutput(config, config.InnerSize, "Output"));
    }

    /// <summary>What lets positions see others.</summary>
    public T Attention => _attention.Self;

    /// <summary>Runs the block.</summary>
    /// <param name="x">[rows · length, hidden size].</param>
    /// <param name="attend">Runs the attention on x.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, Func<T, Tensor> attend, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _attention.Forward(attend(_attention.Self), x, context);
        return _output.Forward(_intermediate.Forward(attended, context), attended, context).MoveToOuterDisposeScope();
    }
}

/// <summary>The stack of blocks.</summary>
internal sealed class BertEncoder : Module
{
    private readonly ModuleList<BertLayer<BertSelfAttention>> _layers;

    public BertEncoder(BertConfig config)
        : base(config.Stem + "Encoder")
    {
        _layers = Add("layer", new ModuleList<BertLayer<BertSelfAttention>>(Enumerable.Range(0, config.Layers).Select(Block)) { Make = Block });

        BertLayer<BertSelfAttention> Block(int layer) => new(config, new BertSelfAttention(config, layer));
    }

    /// <summary>As <see cref="Backbone.ReplicateLayers"/>.</summary>
    public Action Replicate(IReadOnlyList<int> sources) => LayerReplication.Replace(_layers, sources, _layers.Make!, static (block, place) => block.Attention.Layer = place);

    public StackOutput Forward(Tensor x, ForwardContext context)
    {
        var plan = AttentionPlan.BothWays(context, x.device);
        return DecoderStack.Run(_layers.Items, x, context, (layer, input, inner) => layer.Forward(input, self => self.Forward(input, plan, inner), inner));
    }
}

/// <summary>A row's first position, through a layer of its own.</summary>
internal sealed class BertPooler : Module
{
    private readonly Linear _dense;
    private readonly Activation _activation;

    public BertPooler(BertConfig config)
        : base(config.Stem + "Pooler")
    {
        _dense = Add("dense", new Linear(config.HiddenSize, config.HiddenSize, hasBias: true));
        _activation = Add("activation", new Activation("tanh"));
    }

    public Tensor Forward(Tensor first, ForwardContext context) => _activation.Forward(_dense.Forward(first, context), context);
}

/// <summary>Embeddings and the stack of blocks.</summary>
internal sealed class BertModel : Backbone
{
    private readonly BertConfig _config;
    private readonly BertEmbeddings _embeddings;
    private readonly Linear? _project;
    private readonly BertEncoder _encoder;

    public BertModel(ModelConfig source, BertTraits? traits = null)
        : base(source, source.Family.Stem + "Model")
    {
        _config = new BertConfig(source, traits);
        _embeddings = Add("embeddings", new BertEmbeddings(_config));
        if (_config.EmbeddingSize != _config.HiddenSize)
        {
            _project = Add("embeddings_project", new Linear(_config.EmbeddingSize, _config.HiddenSize, hasBias: true));
        }

        _encoder = Add("encoder", new BertEncoder(_config));
    }

    public override long Width => _config.HiddenSize;

    public override Embedding TokenEmbeddings => _embeddings.Words;

    public override Action ReplicateLayers(IReadOnlyList<int> sources) => _encoder.Replicate(sources);

    /// <summary>What makes a row's vector of its first position; null unless <see cref="WithPooler"/>.</summary>
    public BertPooler? Pooler { get; private set; }

    /// <summary>Adds the pooler, which models of tokens leave out.</summary>
    public BertModel WithPooler()
    {
        Pooler = Add("pooler", new BertPooler(_config));
        return this;
    }

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var x = _embeddings.Forward(embeddings, inputs, context);
        x = _project is null ? x : _project.Forward(x, context);
        var stack = _encoder.Forward(x, context);
        return new BackboneOutput(stack.Output, context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }
}
