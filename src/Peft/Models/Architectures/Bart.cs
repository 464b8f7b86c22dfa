using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What one half of a BART is made of.</summary>
/// <param name="Layers">Number of blocks.</param>
/// <param name="InnerSize">Width of their MLPs.</param>
/// <param name="Attention">Their attention.</param>
internal sealed record BartHalf(int Layers, long InnerSize, AttentionShape Attention);

/// <summary>What a BART's configuration says; what it leaves out is as in the large model (Lewis et al. 2020).</summary>
internal sealed class BartConfig
{
    /// <summary>Rows at the beginning of the table of positions that no position uses.</summary>
    public const long PositionOffset = 2;

    public BartConfig(ModelConfig config)
    {
        Stem = config.Family.Stem;
        Width = config.Size("d_model", 1024);
        VocabularySize = config.Size("vocab_size", 50265);
        Positions = config.Size("max_position_embeddings", 1024);
        Padding = config.Integer("pad_token_id");
        DropoutRate = config.Number("dropout") ?? 0.1;
        InnerDropoutRate = config.Number("activation_dropout") ?? 0;
        ActivationName = config.String("activation_function") ?? "gelu";
        EmbeddingScale = config.Boolean("scale_embedding") == true ? Math.Sqrt(Width) : 1;
        var attentionDropout = config.Number("attention_dropout") ?? 0;
        Encoder = Half("encoder");
        Decoder = Half("decoder");

        BartHalf Half(string name) => new(
            (int)config.Size(name + "_layers", 12, least: 0, most: 10_000),
            config.Size(name + "_ffn_dim", 4096),
            EncoderShape.Of(Width, config.Size(name + "_attention_heads", 16), attentionDropout));
    }

    public string Stem { get; }

    public long Width { get; }

    public long VocabularySize { get; }

    public long Positions { get; }

    public long? Padding { get; }

    public double DropoutRate { get; }

    public double InnerDropoutRate { get; }

    public string ActivationName { get; }

    public double EmbeddingScale { get; }

    public BartHalf Encoder { get; }

    public BartHalf Decoder { get; }

    public LayerNorm Norm() => new(Width, 1e-5);

    public Embedding Words() => new(VocabularySize, Width, Padding, Stem + "ScaledWordEmbedding");
}

/// <summary>Attention over itself or over what the encoder gave.</summary>
internal sealed class BartAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly Linear _keys;
    private readonly Linear _values;
    private readonly Linear _queries;
    private readonly LinearGroup? _projections;
    private readonly int _layer;

    public BartAttention(BartConfig config, AttentionShape shape, int layer, bool isAcross)
        : base(config.Stem + "Attention")
    {
        _shape = shape;
        _layer = layer;
        _keys = Add("k_proj", Square());
        _values = Add("v_proj", Square());
        _queries = Add("q_proj", Square());
        Output = Add("out_proj", Square());
        _projections = isAcross ? null : Group(_queries, _keys, _values);

        Linear Square() => new(config.Width, config.Width, hasBias: true);
    }

    public Linear Output { get; }

    public Tensor OverItself(Tensor x, AttentionPlan plan, ForwardContext context) =>
        Attention.Forward(_projections!.Forward(x, context), _shape, null, plan, _layer, context);

    public Tensor Across(Tensor x, Tensor encoded, AttentionPlan plan, ForwardContext context) =>
        CrossAttention.Forward(_queries.Forward(x, context), _keys, _values, encoded, _shape, plan, _layer, context);
}

/// <summary>A block of either half: norm(x + attention(x)), in a decoder over the encoder too, then norm(x + mlp(x)).</summary>
internal sealed class BartLayer : Module
{
    private readonly BartAttention _self;
    private readonly LayerNorm _selfNorm;
    private readonly BartAttention? _cross;
    private readonly LayerNorm? _crossNorm;
    private readonly Activation _activation;
    private readonly Linear _inner;
    private readonly Linear _output;
    private readonly LayerNorm _outputNorm;
    private readonly Dropout _dropout;
    private readonly Dropout _innerDropout;

    public BartLayer(BartConfig config, BartHalf half, int layer, bool isDecoder)
        : base(config.Stem + (isDecoder ? "DecoderLayer" : "EncoderLayer"))
    {
        (_dropout, _innerDropout) = (new Dropout(config.DropoutRate), new Dropout(config.InnerDropoutRate));
        _activation = new Activation(config.ActivationName);
        _self = Add("self_attn", new BartAttention(config, half.Attention, layer, isAcross: false));
        if (isDecoder)
        {
            Add("activation_fn", _activation);
            _selfNorm = Add("self_attn_layer_norm", config.Norm());
            _cross = Add("encoder_attn", new BartAttention(config, half.Attention, half.Layers + layer, isAcross: true));
            _crossNorm = Add("encoder_attn_layer_norm", config.Norm());
        }
        else
        {
            _selfNorm = Add("self_attn_layer_norm", config.Norm());
            Add("activation_fn", _activation);
        }

        _inner = Add("fc1", new Linear(config.Width, half.InnerSize, hasBias: true));
        _output = Add("fc2", new Linear(half.InnerSize, config.Width, hasBias: true));
        _outputNorm = Add("final_layer_norm", config.Norm());
    }

    /// <summary>Runs the block.</summary>
    /// <param name="inputs">The hidden states and, in a decoder, what the encoder gave.</param>
    /// <param name="plans">Who sees whom within the half, and of the encoder's positions.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(IReadOnlyList<Tensor> inputs, (AttentionPlan Own, AttentionPlan? Across) plans, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var x = inputs[0];
        x = _selfNorm.Forward(_dropout.AddProjection(_self.Output, _self.OverItself(x, plans.Own, context), x, context), context);
        if (_cross is not null)
        {
            x = _crossNorm!.Forward(_dropout.AddProjection(_cross.Output, _cross.Across(x, inputs[1], plans.Across!, context), x, context), context);
        }

        var active = _innerDropout.Forward(_activation.Forward(_inner.Forward(x, context), context), context);
        return _outputNorm.Forward(_dropout.AddProjection(_output, active, x, context), context).MoveToOuterDisposeScope();
    }
}

/// <summary>An encoder or a decoder.</summary>
internal sealed class BartStack : EncoderDecoderHalf
{
    private readonly BartConfig _config;
    private readonly bool _isDecoder;
    private readonly Embedding _words;
    private readonly Embedding _positions;
    private readonly ModuleList<BartLayer> _layers;
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;

    public BartStack(BartConfig config, bool isDecoder)
        : base(config.Stem + (isDecoder ? "Decoder" : "Encoder"))
    {
        _config = config;
        _isDecoder = isDecoder;
        _dropout = new Dropout(config.DropoutRate);
        var half = isDecoder ? config.Decoder : config.Encoder;
        _words = Add("embed_tokens", config.Words());
        _positions = Add("embed_positions", new Embedding(config.Positions + BartConfig.PositionOffset, config.Width, null, config.Stem + "LearnedPositionalEmbedding"));
        _layers = Add("layers", new ModuleList<BartLayer>(Enumerable.Range(0, half.Layers).Select(i => new BartLayer(config, half, i, isDecoder))));
        _norm = Add("layernorm_embedding", config.Norm());
    }

    public override Tensor Embed(Tensor ids, ForwardContext context) => Scaling.Forward(_words.Forward(ids, context), _config.EmbeddingScale, context);

    public override BackboneOutput Forward(Tensor embeddings, Tensor? encoded, AttentionPlan? across, ForwardContext context)
    {
        var own = _isDecoder ? AttentionPlan.Causal(context, embeddings.device) : AttentionPlan.BothWays(context, embeddings.device);
        var sum = ResidualSum.Forward(embeddings, LearnedPositions.Forward(_positions, context, embeddings.device, BartConfig.PositionOffset), context);
        var x = _dropout.Forward(_norm.Forward(sum, context), context);
        var stack = DecoderStack.Run(
            _layers.Items, x, encoded is null ? [] : [encoded], context, (layer, inputs, inner) => [layer.Forward(inputs, (own, across), inner)]);
        return new BackboneOutput(stack.Output, context.Rows, context.Length);
    }
}

/// <summary>BART's encoder and decoder.</summary>
internal sealed class BartModel : EncoderDecoderBackbone
{
    public BartModel(ModelConfig source)
        : this(source, new BartConfig(source))
    {
    }

    private BartModel(ModelConfig source, BartConfig config)
        : base(source, config.Words(), new BartStack(config, isDecoder: false), new BartStack(config, isDecoder: true))
    {
        Width = config.Width;
    }

    public override long Width { get; }
}

/// <summary>BART's heads.</summary>
internal static class BartHeads
{
    public static IReadOnlyList<HeadRow> All { get; } =
    [
        new("ForConditionalGeneration", "SEQ_2_SEQ_LM", static (config, name) => new SequenceToSequenceModel(config, name, config.Boolean("tie_word_embeddings") ?? true)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new EndOfTextClassificationModel(config, name)),
        new("ForQuestionAnswering", "QUESTION_ANS", static (config, name) => new QuestionAnsweringModel(config, name)),
        HeadRow.Features,
    ];
}
