using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a CLIP text encoder's configuration says; what it leaves out is as in ViT-B/32 (Radford et al. 2021).</summary>
internal sealed class ClipTextConfig
{
    public ClipTextConfig(ModelConfig config)
    {
        Width = config.Size("hidden_size", 512);
        InnerSize = config.Size("intermediate_size", 2048);
        VocabularySize = config.Size("vocab_size", 49408);
        Positions = config.Size("max_position_embeddings", 77);
        Layers = (int)config.Size("num_hidden_layers", 12, least: 0, most: 10_000);
        ActivationName = config.String("hidden_act") ?? "quick_gelu";
        Epsilon = config.Number("layer_norm_eps") ?? 1e-5;
        Attention = EncoderShape.Of(Width, config.Size("num_attention_heads", 8), config.Number("attention_dropout") ?? 0);
    }

    public long Width { get; }

    public long InnerSize { get; }

    public long VocabularySize { get; }

    public long Positions { get; }

    public int Layers { get; }

    public string ActivationName { get; }

    public double Epsilon { get; }

    public AttentionShape Attention { get; }

    public LayerNorm Norm() => new(Width, Epsilon);
}

/// <summary>Attention of each position to those before it.</summary>
internal sealed class ClipAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly LinearGroup _projections;
    private readonly Linear _output;
    private readonly int _layer;

    public ClipAttention(ClipTextConfig config, int layer)
        : base("CLIPAttention")
    {
        (_shape, _layer) = (config.Attention, layer);
        var keys = Add("k_proj", Square());
        var values = Add("v_proj", Square());
        var queries = Add("q_proj", Square());
        _output = Add("out_proj", Square());
        _projections = Group(queries, keys, values);

        Linear Square() => new(config.Width, config.Width, hasBias: true);
    }

    public Tensor Forward(Tensor x, Tensor residual, AttentionPlan plan, ForwardContext context) =>
        _output.Forward(Attention.Forward(_projections.Forward(x, context), _shape, null, plan, _layer, context), context, residual);
}

/// <summary>Two layers with an activation between them.</summary>
internal sealed class ClipMlp : Module
{
    private readonly Activation _activation;
    private readonly Linear _inner;
    private readonly Linear _output;

    public ClipMlp(ClipTextConfig config)
        : base("CLIPMLP")
    {
        _activation = Add("activation_fn", new Activation(config.ActivationName));
        _inner = Add("fc1", new Linear(config.Width, config.InnerSize, hasBias: true));
        _output = Add("fc2", new Linear(config.InnerSize, config.Width, hasBias: true));
    }

    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context) =>
        _output.Forward(_activation.Forward(_inner.Forward(x, context), context), context, residual);
}

/// <summary>A block: x + attention(norm(x)), then x + mlp(norm(x)).</summary>
internal sealed class ClipEncoderLayer : Module
{
    private readonly ClipAttention _attention;
    private readonly LayerNorm _attentionNorm;
    private readonly ClipMlp _mlp;
    private readonly LayerNorm _mlpNorm;

    public ClipEncoderLayer(ClipTextConfig config, int layer)
        : base("CLIPEncoderLayer")
    {
        _attention = Add("self_attn", new ClipAttention(config, layer));
        _attentionNorm = Add("layer_norm1", config.Norm());
        _mlp = Add("mlp", new ClipMlp(config));
        _mlpNorm = Add("layer_norm2", config.Norm());
    }

    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _attention.Forward(_attentionNorm.Forward(x, context), x, plan, context);
        return _mlp.Forward(_mlpNorm.Forward(attended, context), attended, context).MoveToOuterDisposeScope();
    }
}

/// <summary>The stack of blocks, as transformers lists it.</summary>
internal sealed class ClipEncoder : Module
{
    public ClipEncoder(ClipTextConfig config)
        : base("CLIPEncoder") =>
        Layers = Add("layers", new ModuleList<ClipEncoderLayer>(Enumerable.Range(0, config.Layers).Select(i => new ClipEncoderLayer(config, i))));

    public ModuleList<ClipEncoderLayer> Layers { get; }
}

/// <summary>Vectors of tokens and of their positions.</summary>
internal sealed class ClipTextEmbeddings : Module
{
    public ClipTextEmbeddings(ClipTextConfig config)
        : base("CLIPTextEmbeddings")
    {
        Tokens = Add("token_embedding", new Embedding(config.VocabularySize, config.Width));
        Positions = Add("position_embedding", new Embedding(config.Positions, config.Width));
    }

    public Embedding Tokens { get; }

    public Embedding Positions { get; }
}

/// <summary>CLIP's text encoder. Its last hidden states are normed; <see cref="BackboneOutput.HiddenStates"/> are those before the norm.</summary>
internal sealed class ClipTextModel : Backbone
{
    private readonly ClipTextEmbeddings _embeddings;
    private readonly ClipEncoder _encoder;

    public ClipTextModel(ModelConfig source)
        : base(source, "CLIPTextModel")
    {
        var config = new ClipTextConfig(source);
        Width = config.Width;
        _embeddings = Add("embeddings", new ClipTextEmbeddings(config));
        _encoder = Add("encoder", new ClipEncoder(config));
        FinalNorm = Add("final_layer_norm", config.Norm());
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings => _embeddings.Tokens;

    /// <summary>The norm after the last block, which pipelines that skip blocks apply themselves.</summary>
    public LayerNorm FinalNorm { get; }

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var plan = AttentionPlan.Causal(context, embeddings.device);
        var sum = ResidualSum.Forward(embeddings, LearnedPositions.Forward(_embeddings.Positions, context, embeddings.device, 0), context);
        var stack = DecoderStack.Run(_encoder.Layers.Items, sum, context, (layer, x, inner) => layer.Forward(x, plan, inner));
        return new BackboneOutput(FinalNorm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs is { } states ? [.. states, stack.Output] : null,
        };
    }

    /// <summary>The state at each row's end of text, [rows, width].</summary>
    /// <param name="output">What the encoder gave.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Pool(BackboneOutput output, ForwardContext context)
    {
        // Configurations that were published before the end token was right say 2; the largest id is the end there.
        const int MistakenEnd = 2;
        using var scope = NewDisposeScope();
        // Tokens behind the table's (a textual inversion's) have larger ids and end nothing.
        var ids = output.Inputs.RequiredIds;
        ids = ids.masked_fill(ids.ge(TokenEmbeddings.Count), 0);
        var end = Config.Integer("eos_token_id") ?? 49407;
        var at = (end == MistakenEnd ? ids : ids.eq(end).to(ScalarType.Int64)).argmax(1);
        return RowSelection.Forward(output.Hidden, at.add(arange(output.Rows, ScalarType.Int64, ids.device).mul(output.Length)), context).MoveToOuterDisposeScope();
    }
}

/// <summary>CLIP's text encoder with the projection into the space that texts share with images.</summary>
internal sealed class ClipTextProjectionModel : PretrainedModel
{
    private readonly Linear _projection;

    public ClipTextProjectionModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _projection = Add("text_projection", new Linear(Backbone.Width, config.Size("projection_dim", 512)));
    }

    /// <summary>Each row's place in the common space, [rows, projection].</summary>
    /// <param name="output">What the encoder gave.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Project(BackboneOutput output, ForwardContext context) => _projection.Forward(((ClipTextModel)Backbone).Pool(output, context), context);
}

/// <summary>CLIP's text encoder as a family.</summary>
internal static class ClipText
{
    public static Family Row { get; } = new("clip_text_model", "CLIPText", static config => new ClipTextModel(config))
    {
        Prefix = "text_model",
        Heads =
        [
            new("Model", "FEATURE_EXTRACTION", static (config, name) => new FeatureModel(config.Family.Backbone(config), name)),
            new("ModelWithProjection", "FEATURE_EXTRACTION", static (config, name) => new ClipTextProjectionModel(config, name)),
        ],
    };
}
