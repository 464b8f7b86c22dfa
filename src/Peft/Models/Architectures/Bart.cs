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
    private readonly AttentionShape shape;
    private readonly Linear keys;
    private readonly Linear values;
    private readonly Linear queries;
    private readonly LinearGroup? projections;
    private readonly int layer;

    public BartAttention(BartConfig config, AttentionShape shape, int layer, bool isAcross)
        : base(config.Stem + "Attention")
    {
        this.shape = shape;
        this.layer = layer;
        keys = Add("k_proj", Square());
        values = Add("v_proj", Square());
        queries = Add("q_proj", Square());
        Output = Add("out_proj", Square());
        projections = isAcross ? null : Group(queries, keys, values);

        Linear Square() => new(config.Width, config.Width, hasBias: true);
    }

    public Linear Output { get; }

    public Tensor OverItself(Tensor x, AttentionPlan plan, ForwardContext context) =>
        Attention.Forward(projections!.Forward(x, context), shape, null, plan, layer, context);

    public Tensor Across(Tensor x, Tensor encoded, AttentionPlan plan, ForwardContext context) =>
        CrossAttention.Forward(queries.Forward(x, context), keys, values, encoded, shape, plan, layer, context);
}

/// <summary>A block of either half: norm(x + attention(x)), in a decoder over the encoder too, then norm(x + mlp(x)).</summary>
internal sealed class BartLayer : Module
{
    private readonly BartAttention self;
    private readonly LayerNorm selfNorm;
    private readonly BartAttention? cross;
    private readonly LayerNorm? crossNorm;
    private readonly Activation activation;
    private readonly Linear inner;
    private readonly Linear output;
    private readonly LayerNorm outputNorm;
    private readonly Dropout dropout;
    private readonly Dropout innerDropout;

    public BartLayer(BartConfig config, BartHalf half, int layer, bool isDecoder)
        : base(config.Stem + (isDecoder ? "DecoderLayer" : "EncoderLayer"))
    {
        (dropout, innerDropout) = (new Dropout(config.DropoutRate), new Dropout(config.InnerDropoutRate));
        activation = new Activation(config.ActivationName);
        self = Add("self_attn", new BartAttention(config, half.Attention, layer, isAcross: false));
        if (isDecoder)
        {
            Add("activation_fn", activation);
            selfNorm = Add("self_attn_layer_norm", config.Norm());
            cross = Add("encoder_attn", new BartAttention(config, half.Attention, half.Layers + layer, isAcross: true));
            crossNorm = Add("encoder_attn_layer_norm", config.Norm());
        }
        else
        {
            selfNorm = Add("self_attn_layer_norm", config.Norm());
            Add("activation_fn", activation);
        }

        inner = Add("fc1", new Linear(config.Width, half.InnerSize, hasBias: true));
        output = Add("fc2", new Linear(half.InnerSize, config.Width, hasBias: true));
        outputNorm = Add("final_layer_norm", config.Norm());
    }

    /// <summary>Runs the block.</summary>
    /// <param name="inputs">The hidden states and, in a decoder, what the encoder gave.</param>
    /// <param name="plans">Who sees whom within the half, and of the encoder's positions.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(IReadOnlyList<Tensor> inputs, (AttentionPlan Own, AttentionPlan? Across) plans, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var x = inputs[0];
        x = selfNorm.Forward(dropout.AddProjection(self.Output, self.OverItself(x, plans.Own, context), x, context), context);
        if (cross is not null)
        {
            x = crossNorm!.Forward(dropout.AddProjection(cross.Output, cross.Across(x, inputs[1], plans.Across!, context), x, context), context);
        }

        var active = innerDropout.Forward(activation.Forward(inner.Forward(x, context), context), context);
        return outputNorm.Forward(dropout.AddProjection(output, active, x, context), context).MoveToOuterDisposeScope();
    }
}

/// <summary>An encoder or a decoder.</summary>
internal sealed class BartStack : Module
{
    private readonly BartConfig config;
    private readonly bool isDecoder;
    private readonly Embedding words;
    private readonly Embedding positions;
    private readonly ModuleList<BartLayer> layers;
    private readonly LayerNorm norm;
    private readonly Dropout dropout;

    public BartStack(BartConfig config, bool isDecoder)
        : base(config.Stem + (isDecoder ? "Decoder" : "Encoder"))
    {
        this.config = config;
        this.isDecoder = isDecoder;
        dropout = new Dropout(config.DropoutRate);
        var half = isDecoder ? config.Decoder : config.Encoder;
        words = Add("embed_tokens", config.Words());
        positions = Add("embed_positions", new Embedding(config.Positions + BartConfig.PositionOffset, config.Width, null, config.Stem + "LearnedPositionalEmbedding"));
        layers = Add("layers", new ModuleList<BartLayer>(Enumerable.Range(0, half.Layers).Select(i => new BartLayer(config, half, i, isDecoder))));
        norm = Add("layernorm_embedding", config.Norm());
    }

    public Tensor Embed(Tensor ids, ForwardContext context) => Scaling.Forward(words.Forward(ids, context), config.EmbeddingScale, context);

    /// <summary>Runs the half.</summary>
    /// <param name="embeddings">[rows · length, width].</param>
    /// <param name="encoded">What the encoder gave; null in the encoder.</param>
    /// <param name="across">Who sees which of its positions.</param>
    /// <param name="context">The forward pass, as this half sees it.</param>
    public BackboneOutput Forward(Tensor embeddings, Tensor? encoded, AttentionPlan? across, ForwardContext context)
    {
        var own = isDecoder ? AttentionPlan.Causal(context, embeddings.device) : AttentionPlan.BothWays(context, embeddings.device);
        var sum = ResidualSum.Forward(embeddings, LearnedPositions.Forward(positions, context, embeddings.device, BartConfig.PositionOffset), context);
        var x = dropout.Forward(norm.Forward(sum, context), context);
        var stack = DecoderStack.Run(
            layers.Items, x, encoded is null ? [] : [encoded], context, (layer, inputs, inner) => [layer.Forward(inputs, (own, across), inner)]);
        return new BackboneOutput(stack.Output, context.Rows, context.Length);
    }
}

/// <summary>BART's encoder and decoder.</summary>
internal sealed class BartModel : Backbone
{
    private readonly BartConfig config;
    private readonly BartStack encoder;
    private readonly BartStack decoder;

    public BartModel(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        config = new BartConfig(source);
        TokenEmbeddings = Add("shared", config.Words());
        encoder = Add("encoder", new BartStack(config, isDecoder: false));
        decoder = Add("decoder", new BartStack(config, isDecoder: true));
    }

    public override long Width => config.Width;

    public override Embedding TokenEmbeddings { get; }

    public override IEnumerable<(string Owner, string Follower)> TiedParameters =>
        [("shared.weight", "encoder.embed_tokens.weight"), ("shared.weight", "decoder.embed_tokens.weight")];

    public override Tensor Embed(ModelInputs inputs, ForwardContext context) => encoder.Embed(inputs.RequiredIds, context);

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var pass = EncoderDecoderPass.Of(Config, inputs, context);
        var encoded = inputs.Encoded ?? encoder.Forward(embeddings, null, null, pass.Encoder);
        var words = decoder.Embed(pass.DecoderIds, pass.Decoder);
        var across = AttentionPlan.Across(pass.Decoder, words.device, encoded.Length, pass.Encoder.AttentionMask);
        return decoder.Forward(words, encoded.Hidden, across, pass.Decoder) with { Encoded = encoded };
    }
}

/// <summary>A classifier of rows: the decoder reads the row too, and its output where the text ends is classified.</summary>
internal sealed class BartSequenceClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classification_head";

    private readonly EndOfTextClassifier head;

    public BartSequenceClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        head = Add(HeadName, new EndOfTextClassifier(config.Family.Stem + "ClassificationHead", Backbone.Width, LabelCount, config.Number("classifier_dropout") ?? 0));
    }

    public override IReadOnlyList<string> FreshModules => [HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context) => head.Forward(output, Config, context);
}

/// <summary>BART's heads.</summary>
internal static class BartHeads
{
    public static IReadOnlyList<HeadRow> All { get; } =
    [
        new("ForConditionalGeneration", "SEQ_2_SEQ_LM", static (config, name) => new SequenceToSequenceModel(config, name, config.Boolean("tie_word_embeddings") ?? true)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new BartSequenceClassificationModel(config, name)),
        new("ForQuestionAnswering", "QUESTION_ANS", static (config, name) => new QuestionAnsweringModel(config, name)),
        HeadRow.Features,
    ];
}
