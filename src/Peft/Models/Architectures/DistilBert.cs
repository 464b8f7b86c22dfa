using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a DistilBERT's configuration says; what it leaves out is as in the base model (Sanh et al. 2019).</summary>
internal sealed class DistilBertConfig
{
    public const double NormEpsilon = 1e-12;

    public DistilBertConfig(ModelConfig config)
    {
        VocabularySize = config.Size("vocab_size", 30522);
        Positions = config.Size("max_position_embeddings", 512);
        Width = config.Size("dim", 768);
        InnerSize = config.Size("hidden_dim", 3072);
        Layers = (int)config.Size("n_layers", 6, least: 0, most: 10_000);
        Attention = EncoderShape.Of(Width, config.Size("n_heads", 12), config.Number("attention_dropout") ?? 0.1);
        DropoutRate = config.Number("dropout") ?? 0.1;
        ActivationName = config.String("activation") ?? "gelu";
        Padding = config.Integer("pad_token_id");
    }

    public long VocabularySize { get; }

    public long Positions { get; }

    public long Width { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public AttentionShape Attention { get; }

    public double DropoutRate { get; }

    public string ActivationName { get; }

    public long? Padding { get; }

    public LayerNorm Norm() => new(Width, NormEpsilon);
}

/// <summary>Vectors of tokens and positions, normed.</summary>
internal sealed class DistilBertEmbeddings : Module
{
    private readonly Embedding _positions;
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;

    public DistilBertEmbeddings(DistilBertConfig config)
        : base("Embeddings")
    {
        Words = Add("word_embeddings", new Embedding(config.VocabularySize, config.Width, config.Padding));
        _positions = Add("position_embeddings", new Embedding(config.Positions, config.Width));
        _norm = Add("LayerNorm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Embedding Words { get; }

    public Tensor Forward(Tensor words, ForwardContext context) =>
        _dropout.Forward(_norm.Forward(ResidualSum.Forward(words, LearnedPositions.Forward(_positions, context, words.device), context), context), context);
}

/// <summary>Attention in which every token sees all others.</summary>
internal sealed class DistilBertSelfAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly LinearGroup _projections;
    private readonly Linear _output;
    private readonly int _layer;

    public DistilBertSelfAttention(DistilBertConfig config, int layer)
    {
        _layer = layer;
        _shape = config.Attention;
        _projections = Group(Add("q_lin", Square()), Add("k_lin", Square()), Add("v_lin", Square()));
        _output = Add("out_lin", Square());
        Add("dropout", new Dropout(_shape.Dropout));

        Linear Square() => new(config.Width, config.Width, hasBias: true);
    }

    /// <summary>x + attention(x).</summary>
    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context) =>
        _output.Forward(Attention.Forward(_projections.Forward(x, context), _shape, null, plan, _layer, context), context, x);
}

/// <summary>The MLP: lin2(act(lin1(x))).</summary>
internal sealed class DistilBertFFN : Module
{
    private readonly Dropout _dropout;
    private readonly Linear _inner;
    private readonly Linear _output;
    private readonly Activation _activation;

    public DistilBertFFN(DistilBertConfig config)
        : base("FFN")
    {
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
        _inner = Add("lin1", new Linear(config.Width, config.InnerSize, hasBias: true));
        _output = Add("lin2", new Linear(config.InnerSize, config.Width, hasBias: true));
        _activation = Add("activation", new Activation(config.ActivationName));
    }

    /// <summary>x + mlp(x).</summary>
    public Tensor Forward(Tensor x, ForwardContext context) =>
        _dropout.AddProjection(_output, _activation.Forward(_inner.Forward(x, context), context), x, context);
}

/// <summary>A block: norm(x + attention(x)), then norm(x + mlp(x)).</summary>
internal sealed class DistilBertBlock : Module
{
    private readonly DistilBertSelfAttention _attention;
    private readonly LayerNorm _attentionNorm;
    private readonly DistilBertFFN _mlp;
    private readonly LayerNorm _outputNorm;

    public DistilBertBlock(DistilBertConfig config, int layer)
        : base("TransformerBlock")
    {
        _attention = Add("attention", new DistilBertSelfAttention(config, layer));
        _attentionNorm = Add("sa_layer_norm", config.Norm());
        _mlp = Add("ffn", new DistilBertFFN(config));
        _outputNorm = Add("output_layer_norm", config.Norm());
    }

    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _attentionNorm.Forward(_attention.Forward(x, plan, context), context);
        return _outputNorm.Forward(_mlp.Forward(attended, context), context).MoveToOuterDisposeScope();
    }
}

/// <summary>Embeddings and the stack of blocks.</summary>
internal sealed class DistilBertModel : Backbone
{
    private readonly DistilBertEmbeddings _embeddings;
    private readonly ModuleList<DistilBertBlock> _layers;

    public DistilBertModel(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        var config = new DistilBertConfig(source);
        Width = config.Width;
        _embeddings = Add("embeddings", new DistilBertEmbeddings(config));
        _layers = new ModuleList<DistilBertBlock>(Enumerable.Range(0, config.Layers).Select(i => new DistilBertBlock(config, i)));
        Add("transformer", new Wrapper<ModuleList<DistilBertBlock>>("Transformer", "layer", _layers));
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings => _embeddings.Words;

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var plan = AttentionPlan.BothWays(context, embeddings.device);
        var stack = DecoderStack.Run(
            _layers.Items, _embeddings.Forward(embeddings, context), context, (layer, input, inner) => layer.Forward(input, plan, inner));
        return new BackboneOutput(stack.Output, context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }
}

/// <summary>DistilBERT with the head that fills in tokens.</summary>
internal sealed class DistilBertMaskedModel : MaskedModel
{
    private const string HeadName = "vocab_projector";

    private readonly Activation _activation;
    private readonly Linear _dense;
    private readonly LayerNorm _norm;

    public DistilBertMaskedModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        var own = new DistilBertConfig(config);
        _activation = Add("activation", new Activation(own.ActivationName));
        AddBackbone();
        _dense = Add("vocab_transform", new Linear(own.Width, own.Width, hasBias: true));
        _norm = Add("vocab_layer_norm", own.Norm());
        Head = new Head(Add(HeadName, new Linear(own.Width, own.VocabularySize, hasBias: true)));
        Add("mlm_loss_fct", new Placeholder("CrossEntropyLoss"));
    }

    public override string? OutputEmbeddings => HeadName;

    public override IEnumerable<(string Owner, string Follower)> TiedParameters => (Config.Boolean("tie_word_embeddings") ?? true)
        ? [.. base.TiedParameters, ($"{Backbone.TokenEmbeddings!.Path}.weight", $"{HeadName}.weight")]
        : base.TiedParameters;

    protected override Head Head { get; }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) =>
        _norm.Forward(_activation.Forward(_dense.Forward(hidden, context), context), context);
}

/// <summary>A classifier of rows that has two layers over the first position.</summary>
internal sealed class DistilBertSequenceClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classifier";
    private const string InnerName = "pre_classifier";

    private readonly Linear _inner;
    private readonly Activation _activation = new("relu");
    private readonly Linear _classifier;
    private readonly Dropout _dropout;

    public DistilBertSequenceClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _inner = Add(InnerName, new Linear(Backbone.Width, Backbone.Width, hasBias: true));
        _classifier = Add(HeadName, new Linear(Backbone.Width, LabelCount, hasBias: true));
        _dropout = Add("dropout", new Dropout(config.Number("seq_classif_dropout") ?? 0.2));
    }

    public override string? ClassificationHead => HeadName;

    public override IReadOnlyList<string> FreshModules => [InnerName, HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        context = output.In(context) with { Length = 1 };
        var hidden = _activation.Forward(_inner.Forward(BertHeads.FirstPosition(output, context), context), context);
        return _classifier.Forward(_dropout.Forward(hidden, context), context);
    }
}

/// <summary>A model that says where an answer stands, with dropout before its output layer.</summary>
internal sealed class DistilBertQuestionAnsweringModel : QuestionAnsweringModel
{
    private readonly Dropout _dropout;

    public DistilBertQuestionAnsweringModel(ModelConfig config, string className)
        : base(config, className)
    {
        _dropout = Add("dropout", new Dropout(config.Number("qa_dropout") ?? 0.1));
    }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) => _dropout.Forward(hidden, context);
}

/// <summary>DistilBERT's heads.</summary>
internal static class DistilBertHeads
{
    public static IReadOnlyList<HeadRow> All { get; } =
    [
        new("ForMaskedLM", "MASKED_LM", static (config, name) => new DistilBertMaskedModel(config, name)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new DistilBertSequenceClassificationModel(config, name)),
        new("ForTokenClassification", "TOKEN_CLS", static (config, name) => new LinearTokenClassificationModel(config, name, "classifier", new DistilBertConfig(config).DropoutRate)),
        new("ForQuestionAnswering", "QUESTION_ANS", static (config, name) => new DistilBertQuestionAnsweringModel(config, name)),
        HeadRow.Features,
    ];
}
