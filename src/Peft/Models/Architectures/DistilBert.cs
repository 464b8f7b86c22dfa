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
    private readonly Embedding positions;
    private readonly LayerNorm norm;
    private readonly Dropout dropout;

    public DistilBertEmbeddings(DistilBertConfig config)
        : base("Embeddings")
    {
        Words = Add("word_embeddings", new Embedding(config.VocabularySize, config.Width, config.Padding));
        positions = Add("position_embeddings", new Embedding(config.Positions, config.Width));
        norm = Add("LayerNorm", config.Norm());
        dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Embedding Words { get; }

    public Tensor Forward(Tensor words, ForwardContext context) =>
        dropout.Forward(norm.Forward(ResidualSum.Forward(words, LearnedPositions.Forward(positions, context, words.device), context), context), context);
}

/// <summary>Attention in which every token sees all others.</summary>
internal sealed class DistilBertSelfAttention : Module
{
    private readonly AttentionShape shape;
    private readonly LinearGroup projections;
    private readonly Linear output;
    private readonly int layer;

    public DistilBertSelfAttention(DistilBertConfig config, int layer)
    {
        this.layer = layer;
        shape = config.Attention;
        projections = Group(Add("q_lin", Square()), Add("k_lin", Square()), Add("v_lin", Square()));
        output = Add("out_lin", Square());
        Add("dropout", new Dropout(shape.Dropout));

        Linear Square() => new(config.Width, config.Width, hasBias: true);
    }

    /// <summary>x + attention(x).</summary>
    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context) =>
        output.Forward(Attention.Forward(projections.Forward(x, context), shape, null, plan, layer, context), context, x);
}

/// <summary>The MLP: lin2(act(lin1(x))).</summary>
internal sealed class DistilBertFFN : Module
{
    private readonly Dropout dropout;
    private readonly Linear inner;
    private readonly Linear output;
    private readonly Activation activation;

    public DistilBertFFN(DistilBertConfig config)
        : base("FFN")
    {
        dropout = Add("dropout", new Dropout(config.DropoutRate));
        inner = Add("lin1", new Linear(config.Width, config.InnerSize, hasBias: true));
        output = Add("lin2", new Linear(config.InnerSize, config.Width, hasBias: true));
        activation = Add("activation", new Activation(config.ActivationName));
    }

    /// <summary>x + mlp(x).</summary>
    public Tensor Forward(Tensor x, ForwardContext context) =>
        dropout.AddProjection(output, activation.Forward(inner.Forward(x, context), context), x, context);
}

/// <summary>A block: norm(x + attention(x)), then norm(x + mlp(x)).</summary>
internal sealed class DistilBertBlock : Module
{
    private readonly DistilBertSelfAttention attention;
    private readonly LayerNorm attentionNorm;
    private readonly DistilBertFFN mlp;
    private readonly LayerNorm outputNorm;

    public DistilBertBlock(DistilBertConfig config, int layer)
        : base("TransformerBlock")
    {
        attention = Add("attention", new DistilBertSelfAttention(config, layer));
        attentionNorm = Add("sa_layer_norm", config.Norm());
        mlp = Add("ffn", new DistilBertFFN(config));
        outputNorm = Add("output_layer_norm", config.Norm());
    }

    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = attentionNorm.Forward(attention.Forward(x, plan, context), context);
        return outputNorm.Forward(mlp.Forward(attended, context), context).MoveToOuterDisposeScope();
    }
}

/// <summary>Embeddings and the stack of blocks.</summary>
internal sealed class DistilBertModel : Backbone
{
    private readonly DistilBertEmbeddings embeddings;
    private readonly ModuleList<DistilBertBlock> layers;

    public DistilBertModel(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        var config = new DistilBertConfig(source);
        Width = config.Width;
        embeddings = Add("embeddings", new DistilBertEmbeddings(config));
        layers = new ModuleList<DistilBertBlock>(Enumerable.Range(0, config.Layers).Select(i => new DistilBertBlock(config, i)));
        Add("transformer", new Wrapper<ModuleList<DistilBertBlock>>("Transformer", "layer", layers));
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings => embeddings.Words;

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var plan = AttentionPlan.BothWays(context, embeddings.device);
        var stack = DecoderStack.Run(
            layers.Items, this.embeddings.Forward(embeddings, context), context, (layer, input, inner) => layer.Forward(input, plan, inner));
        return new BackboneOutput(stack.Output, context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }
}

/// <summary>DistilBERT with the head that fills in tokens.</summary>
internal sealed class DistilBertMaskedModel : MaskedModel
{
    private const string HeadName = "vocab_projector";

    private readonly Activation activation;
    private readonly Linear dense;
    private readonly LayerNorm norm;

    public DistilBertMaskedModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        var own = new DistilBertConfig(config);
        activation = Add("activation", new Activation(own.ActivationName));
        AddBackbone();
        dense = Add("vocab_transform", new Linear(own.Width, own.Width, hasBias: true));
        norm = Add("vocab_layer_norm", own.Norm());
        Head = new Head(Add(HeadName, new Linear(own.Width, own.VocabularySize, hasBias: true)));
        Add("mlm_loss_fct", new Placeholder("CrossEntropyLoss"));
    }

    public override string? OutputEmbeddings => HeadName;

    public override IEnumerable<(string Owner, string Follower)> TiedParameters => (Config.Boolean("tie_word_embeddings") ?? true)
        ? [.. base.TiedParameters, ($"{Backbone.TokenEmbeddings!.Path}.weight", $"{HeadName}.weight")]
        : base.TiedParameters;

    protected override Head Head { get; }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) =>
        norm.Forward(activation.Forward(dense.Forward(hidden, context), context), context);
}

/// <summary>A classifier of rows that has two layers over the first position.</summary>
internal sealed class DistilBertSequenceClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classifier";
    private const string InnerName = "pre_classifier";

    private readonly Linear inner;
    private readonly Activation activation = new("relu");
    private readonly Linear classifier;
    private readonly Dropout dropout;

    public DistilBertSequenceClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        inner = Add(InnerName, new Linear(Backbone.Width, Backbone.Width, hasBias: true));
        classifier = Add(HeadName, new Linear(Backbone.Width, LabelCount, hasBias: true));
        dropout = Add("dropout", new Dropout(config.Number("seq_classif_dropout") ?? 0.2));
    }

    public override string? ClassificationHead => HeadName;

    public override IReadOnlyList<string> FreshModules => [InnerName, HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        context = output.In(context) with { Length = 1 };
        var hidden = activation.Forward(inner.Forward(BertHeads.FirstPosition(output, context), context), context);
        return classifier.Forward(dropout.Forward(hidden, context), context);
    }
}

/// <summary>A model that says where an answer stands, with dropout before its output layer.</summary>
internal sealed class DistilBertQuestionAnsweringModel : QuestionAnsweringModel
{
    private readonly Dropout dropout;

    public DistilBertQuestionAnsweringModel(ModelConfig config, string className)
        : base(config, className)
    {
        dropout = Add("dropout", new Dropout(config.Number("qa_dropout") ?? 0.1));
    }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) => dropout.Forward(hidden, context);
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
