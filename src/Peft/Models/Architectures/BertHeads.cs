using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>The heads of BERT and its relatives.</summary>
internal static class BertHeads
{
    private const string Classifier = "classifier";

    /// <summary>BERT's own, with a pooler.</summary>
    public static IReadOnlyList<HeadRow> Bert { get; } =
    [
        new("ForMaskedLM", "MASKED_LM", static (config, name) => new BertMaskedModel(config, name)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new PooledClassificationModel(config, name)),
        .. Tokens(static config => new BertConfig(config).HeadDropout),
        new("Model", "FEATURE_EXTRACTION", static (config, name) => new FeatureModel(((BertModel)config.Family.Backbone(config)).WithPooler(), name)),
    ];

    /// <summary>RoBERTa's: no pooler, but a classifier of two layers.</summary>
    public static IReadOnlyList<HeadRow> Roberta { get; } =
    [
        new("ForMaskedLM", "MASKED_LM", static (config, name) => new RobertaMaskedModel(config, name)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new FirstTokenClassificationModel(config, name, "tanh", listsActivation: false)),
        .. Tokens(static config => new BertConfig(config).HeadDropout),
        new("Model", "FEATURE_EXTRACTION", static (config, name) => new FeatureModel(((BertModel)config.Family.Backbone(config)).WithPooler(), name)),
    ];

    /// <summary>ELECTRA's.</summary>
    public static IReadOnlyList<HeadRow> Electra { get; } =
    [
        new("ForMaskedLM", "MASKED_LM", static (config, name) => new ElectraMaskedModel(config, name)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new FirstTokenClassificationModel(config, name, "gelu", listsActivation: true)),
        .. Tokens(static config => new BertConfig(config).HeadDropout),
        HeadRow.Features,
    ];

    /// <summary>Heads over tokens.</summary>
    /// <param name="dropout">Probability with which the head drops an element of its input in training.</param>
    public static IReadOnlyList<HeadRow> Tokens(Func<ModelConfig, double> dropout) =>
    [
        new("ForTokenClassification", "TOKEN_CLS", (config, name) => new LinearTokenClassificationModel(config, name, Classifier, dropout(config))),
        new("ForQuestionAnswering", "QUESTION_ANS", static (config, name) => new QuestionAnsweringModel(config, name)),
    ];

    /// <summary>The hidden states of each row's first position, virtual ones included; padding too where it stands there.</summary>
    public static Tensor FirstPosition(BackboneOutput output, ForwardContext context) =>
        RowSelection.Forward(output.Hidden, arange(output.Rows, ScalarType.Int64, output.Hidden.device).mul_(output.Length), context);
}

/// <summary>What stands between BERT and its output layer: norm(act(dense(x))).</summary>
internal sealed class BertTransform : Module
{
    private readonly Linear _dense;
    private readonly Activation _activation;
    private readonly LayerNorm _norm;

    public BertTransform(BertConfig config, string prefix, long size)
        : base(prefix + "PredictionHeadTransform")
    {
        _dense = Add("dense", new Linear(config.HiddenSize, size, hasBias: true));
        _activation = Add("transform_act_fn", new Activation(config.ActivationName));
        _norm = Add("LayerNorm", config.Norm(size));
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _norm.Forward(_activation.Forward(_dense.Forward(x, context), context), context);
}

/// <summary>A parent in the tree with an output layer, whose bias it shares under its own name.</summary>
internal sealed class PredictionHead : Module
{
    public PredictionHead(string className, long width, long vocabulary, params IReadOnlyList<(string Name, Module Module)> before)
        : base(className)
    {
        AddParameter("bias", [vocabulary]);
        foreach (var (name, module) in before)
        {
            Add(name, module);
        }

        Decoder = Add("decoder", new Linear(width, vocabulary, hasBias: true));
    }

    public Linear Decoder { get; }
}

/// <summary>A parent in the tree with one child.</summary>
internal sealed class Wrapper<T> : Module
    where T : Module
{
    public Wrapper(string className, string name, T child)
        : base(className)
    {
        Child = Add(name, child);
    }

    public T Child { get; }
}

/// <summary>BERT with the head that fills in tokens.</summary>
internal sealed class BertMaskedModel : MaskedModel
{
    private readonly BertTransform _transform;
    private readonly PredictionHead _predictions;

    /// <summary>Makes the structure.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="prefix">Begins the names of the head's classes; null for the family's stem.</param>
    public BertMaskedModel(ModelConfig config, string className, string? prefix = null)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        var words = Backbone.TokenEmbeddings!;
        prefix ??= config.Family.Stem;

        // Vectors of tokens may be narrower than hidden states (DeBERTa).
        _transform = new BertTransform(new BertConfig(config), prefix, words.Size);
        _predictions = new PredictionHead(prefix + "LMPredictionHead", words.Size, words.Count, ("transform", _transform));
        Add("cls", new Wrapper<PredictionHead>(prefix + "OnlyMLMHead", "predictions", _predictions));
        Head = new Head(_predictions.Decoder);
    }

    public override string? OutputEmbeddings => _predictions.Decoder.Path;

    public override IEnumerable<(string Owner, string Follower)> TiedParameters => BertTies.Of(this, base.TiedParameters, _predictions.Path);

    protected override Head Head { get; }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) => _transform.Forward(hidden, context);
}

/// <summary>RoBERTa with the head that fills in tokens.</summary>
internal sealed class RobertaMaskedModel : MaskedModel
{
    private readonly Linear _dense;
    private readonly LayerNorm _norm;
    private readonly Activation _activation = new("gelu");
    private readonly PredictionHead _head;

    public RobertaMaskedModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        var words = Backbone.TokenEmbeddings!;
        _dense = new Linear(Backbone.Width, Backbone.Width, hasBias: true);
        _norm = new BertConfig(config).Norm();
        _head = Add("lm_head", new PredictionHead(config.Family.Stem + "LMHead", Backbone.Width, words.Count, ("dense", _dense), ("layer_norm", _norm)));
        Head = new Head(_head.Decoder);
    }

    public override string? OutputEmbeddings => _head.Decoder.Path;

    public override IEnumerable<(string Owner, string Follower)> TiedParameters => BertTies.Of(this, base.TiedParameters, _head.Path);

    protected override Head Head { get; }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) =>
        _norm.Forward(_activation.Forward(_dense.Forward(hidden, context), context), context);
}

/// <summary>ELECTRA's generator: the head that fills in tokens.</summary>
internal sealed class ElectraMaskedModel : MaskedModel
{
    private readonly ElectraTransform _transform;

    public ElectraMaskedModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        var words = Backbone.TokenEmbeddings!;
        _transform = Add("generator_predictions", new ElectraTransform(new BertConfig(config), Backbone.Width, words.Size));
        Head = new Head(Add(HeadName, new Linear(words.Size, words.Count, hasBias: true)));
    }

    private const string HeadName = "generator_lm_head";

    public override string? OutputEmbeddings => HeadName;

    public override IEnumerable<(string Owner, string Follower)> TiedParameters => (Config.Boolean("tie_word_embeddings") ?? true)
        ? [.. base.TiedParameters, ($"{Backbone.TokenEmbeddings!.Path}.weight", $"{HeadName}.weight")]
        : base.TiedParameters;

    protected override Head Head { get; }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) => _transform.Forward(hidden, context);

    private sealed class ElectraTransform : Module
    {
        private readonly Activation _activation;
        private readonly LayerNorm _norm;
        private readonly Linear _dense;

        public ElectraTransform(BertConfig config, long width, long size)
            : base(config.Stem + "GeneratorPredictions")
        {
            _activation = Add("activation", new Activation("gelu"));
            _norm = Add("LayerNorm", config.Norm(size));
            _dense = Add("dense", new Linear(width, size, hasBias: true));
        }

        public Tensor Forward(Tensor x, ForwardContext context) => _norm.Forward(_activation.Forward(_dense.Forward(x, context), context), context);
    }
}

/// <summary>What a masked head shares.</summary>
internal static class BertTies
{
    /// <summary>The output layer's weight with the token vectors, and its bias with that of the module around it.</summary>
    public static IEnumerable<(string Owner, string Follower)> Of(PretrainedModel model, IEnumerable<(string Owner, string Follower)> others, string head) =>
        (model.Config.Boolean("tie_word_embeddings") ?? true)
            ? [.. others, ($"{model.Backbone.TokenEmbeddings!.Path}.weight", $"{head}.decoder.weight"), ($"{head}.bias", $"{head}.decoder.bias")]
            : others;
}

/// <summary>A classifier of rows over BERT's pooler.</summary>
internal sealed class PooledClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classifier";

    private readonly BertPooler _pooler;
    private readonly Dropout _dropout;
    private readonly Linear _classifier;

    public PooledClassificationModel(ModelConfig config, string className)
        : base(((BertModel)config.Family.Backbone(config)).WithPooler(), className)
    {
        AddBackbone();
        _pooler = ((BertModel)Backbone).Pooler!;
        _dropout = Add("dropout", new Dropout(new BertConfig(config).HeadDropout));
        _classifier = Add(HeadName, new Linear(Backbone.Width, LabelCount, hasBias: true));
    }

    public override string? ClassificationHead => HeadName;

    public override IReadOnlyList<string> FreshModules => [_pooler.Path, HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        context = output.In(context) with { Length = 1 };
        return _classifier.Forward(_dropout.Forward(_pooler.Forward(BertHeads.FirstPosition(output, context), context), context), context);
    }
}

/// <summary>A classifier of rows that has two layers over the first position.</summary>
internal sealed class FirstTokenClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classifier";

    private readonly ClassificationLayers _layers;

    public FirstTokenClassificationModel(ModelConfig config, string className, string activation, bool listsActivation)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _layers = Add(HeadName, new ClassificationLayers(new BertConfig(config), activation, listsActivation, LabelCount));
    }

    public override string? ClassificationHead => HeadName;

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        context = output.In(context) with { Length = 1 };
        return _layers.Forward(BertHeads.FirstPosition(output, context), context);
    }

    private sealed class ClassificationLayers : Module
    {
        private readonly Linear _dense;
        private readonly Activation _activation;
        private readonly Dropout _dropout;
        private readonly Linear _output;

        public ClassificationLayers(BertConfig config, string activation, bool listsActivation, long labels)
            : base(config.Stem + "ClassificationHead")
        {
            _dense = Add("dense", new Linear(config.HiddenSize, config.HiddenSize, hasBias: true));
            _activation = new Activation(activation);
            if (listsActivation)
            {
                Add("activation", _activation);
            }

            _dropout = Add("dropout", new Dropout(config.HeadDropout));
            _output = Add("out_proj", new Linear(config.HiddenSize, labels, hasBias: true));
        }

        public Tensor Forward(Tensor first, ForwardContext context)
        {
            var inner = _activation.Forward(_dense.Forward(_dropout.Forward(first, context), context), context);
            return _output.Forward(_dropout.Forward(inner, context), context);
        }
    }
}
