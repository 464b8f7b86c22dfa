using System.Text.Json.Nodes;
using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a ModernBERT's configuration says; what it leaves out is as in the base model (Warner et al. 2024).</summary>
internal sealed class ModernBertConfig
{
    private readonly ModelConfig _source;

    public ModernBertConfig(ModelConfig config)
    {
        _source = config;
        Width = config.Size("hidden_size", 768);
        InnerSize = config.Size("intermediate_size", 1152);
        Layers = (int)config.Size("num_hidden_layers", 22, least: 0, most: 10_000);
        AttentionDropout = config.Number("attention_dropout") ?? 0;
        Attention = EncoderShape.Of(Width, config.Size("num_attention_heads", 12), AttentionDropout);
        Reach = config.Size("local_attention", 128, least: 0) / 2;
    }

    public string Stem => _source.Family.Stem;

    public long Width { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public AttentionShape Attention { get; }

    public double AttentionDropout { get; }

    /// <summary>How many positions a local layer sees to each side.</summary>
    public long Reach { get; }

    public string ActivationName => _source.String("hidden_activation") ?? "gelu";

    public bool AttentionBias => _source.Boolean("attention_bias") ?? false;

    public bool MlpBias => _source.Boolean("mlp_bias") ?? false;

    public Embedding Words() => new(_source.Size("vocab_size", 50368), Width, _source.Integer("pad_token_id"));

    public LayerNorm Norm() => new(Width, _source.Number("norm_eps") ?? 1e-5, _source.Boolean("norm_bias") ?? false);

    public Dropout Dropout(string key) => new(_source.Number(key) ?? 0);

    /// <summary>Whether a layer sees its neighbours alone.</summary>
    public bool IsLocal(int layer) => _source.TextOf("layer_types", layer) is { } kind
        ? kind == "sliding_attention"
        : layer % (_source.Integer("global_attn_every_n_layers") ?? 3) != 0;

    /// <summary>The frequencies of local or of other layers; published files give two bases, transformers 5 saves two sets.</summary>
    public RotaryFrequencies Frequencies(bool isLocal)
    {
        var own = (_source.Node("rope_parameters") as JsonObject)?[isLocal ? "sliding_attention" : "full_attention"] as JsonObject;
        var parameters = own is null ? [] : (JsonObject)own.DeepClone();
        parameters.TryAdd("rope_theta", _source.Number(isLocal ? "local_rope_theta" : "global_rope_theta") ?? (isLocal ? 10_000.0 : 160_000.0));
        return new RotaryFrequencies(_source, Attention.HeadSize, parameters: parameters);
    }
}

/// <summary>Vectors of tokens, normed.</summary>
internal sealed class ModernBertEmbeddings : Module
{
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;

    public ModernBertEmbeddings(ModernBertConfig config)
        : base(config.Stem + "Embeddings")
    {
        Words = Add("tok_embeddings", config.Words());
        _norm = Add("norm", config.Norm());
        _dropout = Add("drop", config.Dropout("embedding_dropout"));
    }

    public Embedding Words { get; }

    public Tensor Forward(Tensor words, ForwardContext context) => _dropout.Forward(_norm.Forward(words, context), context);
}

/// <summary>Attention with rotary positions, one projection for queries, keys and values.</summary>
internal sealed class ModernBertAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly Linear _projections;
    private readonly Linear _output;
    private readonly Dropout _dropout;
    private readonly int _layer;

    public ModernBertAttention(ModernBertConfig config, int layer)
        : base(config.Stem + "Attention")
    {
        _layer = layer;
        _shape = config.Attention;
        _projections = Add("Wqkv", new Linear(config.Width, 3 * config.Width, config.AttentionBias));
        _output = Add("Wo", new Linear(config.Width, config.Width, config.AttentionBias));
        _dropout = new Dropout(config.AttentionDropout);
        Add<Module>("out_drop", config.AttentionDropout > 0 ? _dropout : new Placeholder("Identity"));
    }

    public Tensor Forward(Tensor x, Tensor residual, ModernBertKind kind, ForwardContext context) => _dropout.AddProjection(
        _output, Attention.Forward(_projections.Forward(x, context), _shape, kind.Rotary, kind.Plan, _layer, context), residual, context);
}

/// <summary>The gated MLP: Wo(act(first half) · second half).</summary>
internal sealed class ModernBertMLP : Module
{
    private readonly Linear _inner;
    private readonly Activation _activation;
    private readonly Dropout _dropout;
    private readonly Linear _output;

    public ModernBertMLP(ModernBertConfig config)
        : base(config.Stem + "MLP")
    {
        _inner = Add("Wi", new Linear(config.Width, 2 * config.InnerSize, config.MlpBias));
        _activation = Add("act", new Activation(config.ActivationName));
        _dropout = Add("drop", config.Dropout("mlp_dropout"));
        _output = Add("Wo", new Linear(config.InnerSize, config.Width, config.MlpBias));
    }

    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context) => _output.Forward(
        _dropout.Forward(GatedActivation.Forward(_inner.Forward(x, context), _activation, context), context), context, residual);
}

/// <summary>What layers of one kind share in a pass.</summary>
/// <param name="Rotary">Turns queries and keys.</param>
/// <param name="Plan">Who sees whom.</param>
internal sealed record ModernBertKind(RotaryTables Rotary, AttentionPlan Plan);

/// <summary>A block: x + attention(norm(x)), without the norm in the first one, then x + mlp(norm(x)).</summary>
internal sealed class ModernBertEncoderLayer : Module
{
    private readonly LayerNorm? _attentionNorm;
    private readonly ModernBertAttention _attention;
    private readonly LayerNorm _innerNorm;
    private readonly ModernBertMLP _mlp;

    public ModernBertEncoderLayer(ModernBertConfig config, int layer)
        : base(config.Stem + "EncoderLayer")
    {
        IsLocal = config.IsLocal(layer);
        _attentionNorm = layer == 0 ? null : config.Norm();
        Add("attn_norm", (Module?)_attentionNorm ?? new Placeholder("Identity"));
        _attention = Add("attn", new ModernBertAttention(config, layer));
        _innerNorm = Add("mlp_norm", config.Norm());
        _mlp = Add("mlp", new ModernBertMLP(config));
    }

    public bool IsLocal { get; }

    public Tensor Forward(Tensor x, ModernBertKind kind, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _attention.Forward(_attentionNorm?.Forward(x, context) ?? x, x, kind, context);
        return _mlp.Forward(_innerNorm.Forward(attended, context), attended, context).MoveToOuterDisposeScope();
    }
}

/// <summary>Embeddings and the stack of blocks, some of which see their neighbours alone.</summary>
internal sealed class ModernBertModel : Backbone
{
    private readonly ModernBertConfig _config;
    private readonly ModernBertEmbeddings _embeddings;
    private readonly ModuleList<ModernBertEncoderLayer> _layers;
    private readonly LayerNorm _norm;
    private readonly RotaryEmbedding _rotary;
    private readonly RotaryEmbedding _localRotary;

    public ModernBertModel(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        _config = new ModernBertConfig(source);
        _embeddings = Add("embeddings", new ModernBertEmbeddings(_config));
        _layers = Add("layers", new ModuleList<ModernBertEncoderLayer>(Enumerable.Range(0, _config.Layers).Select(i => new ModernBertEncoderLayer(_config, i))));
        _norm = Add("final_norm", _config.Norm());
        _rotary = Add("rotary_emb", new RotaryEmbedding(_config.Frequencies(isLocal: false), _config.Stem + "RotaryEmbedding"));
        _localRotary = new RotaryEmbedding(_config.Frequencies(isLocal: true), _config.Stem + "RotaryEmbedding");
    }

    public override long Width => _config.Width;

    public override Embedding TokenEmbeddings => _embeddings.Words;

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var (type, device) = (embeddings.dtype, embeddings.device);
        var everywhere = new ModernBertKind(_rotary.For(context, type, device), AttentionPlan.BothWays(context, device));
        var nearby = new ModernBertKind(_localRotary.For(context, type, device), AttentionPlan.BothWays(context, device, _config.Reach));
        var stack = DecoderStack.Run(
            _layers.Items,
            _embeddings.Forward(embeddings, context),
            context,
            (layer, input, inner) => layer.Forward(input, layer.IsLocal ? nearby : everywhere, inner));
        return new BackboneOutput(_norm.Forward(stack.Output, context), context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _localRotary.Dispose();
        }

        base.Dispose(disposing);
    }
}

/// <summary>norm(act(dense(x))): what all heads begin with.</summary>
internal sealed class ModernBertPredictionHead : Module
{
    private readonly Linear _dense;
    private readonly Activation _activation;
    private readonly LayerNorm _norm;

    public ModernBertPredictionHead(ModelConfig source)
        : base(source.Family.Stem + "PredictionHead")
    {
        var config = new ModernBertConfig(source);
        _dense = Add("dense", new Linear(config.Width, config.Width, source.Boolean("classifier_bias") ?? false));
        _activation = Add("act", new Activation(source.String("classifier_activation") ?? "gelu"));
        _norm = Add("norm", config.Norm());
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _norm.Forward(_activation.Forward(_dense.Forward(x, context), context), context);
}

/// <summary>ModernBERT with the head that fills in tokens.</summary>
internal sealed class ModernBertMaskedModel : MaskedModel
{
    private const string HeadName = "decoder";

    private readonly ModernBertPredictionHead _transform;

    public ModernBertMaskedModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _transform = Add("head", new ModernBertPredictionHead(config));
        Head = new Head(Add(HeadName, new Linear(Backbone.Width, Backbone.TokenEmbeddings!.Count, config.Boolean("decoder_bias") ?? true)));
    }

    public override string? OutputEmbeddings => HeadName;

    public override IEnumerable<(string Owner, string Follower)> TiedParameters => (Config.Boolean("tie_word_embeddings") ?? true)
        ? [.. base.TiedParameters, ($"{Backbone.TokenEmbeddings!.Path}.weight", $"{HeadName}.weight")]
        : base.TiedParameters;

    protected override Head Head { get; }

    protected override Tensor Transform(Tensor hidden, ForwardContext context) => _transform.Forward(hidden, context);
}

/// <summary>A classifier of rows over the first position, or over the mean of all.</summary>
internal sealed class ModernBertSequenceClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classifier";

    private readonly ModernBertPredictionHead _head;
    private readonly Dropout _dropout;
    private readonly Linear _classifier;
    private readonly bool _takesMean;

    public ModernBertSequenceClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        _takesMean = config.String("classifier_pooling") == "mean";
        AddBackbone();
        _head = Add("head", new ModernBertPredictionHead(config));
        _dropout = Add("drop", new ModernBertConfig(config).Dropout("classifier_dropout"));
        _classifier = Add(HeadName, new Linear(Backbone.Width, LabelCount, hasBias: true));
    }

    public override string? ClassificationHead => HeadName;

    public override IReadOnlyList<string> FreshModules => ["head", HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        var pooled = _takesMean ? Mean(output, context) : BertHeads.FirstPosition(output, context);
        context = output.In(context) with { Length = 1 };
        return _classifier.Forward(_dropout.Forward(_head.Forward(pooled, context), context), context);
    }

    /// <summary>Of all positions that are no padding.</summary>
    private static Tensor Mean(BackboneOutput output, ForwardContext context)
    {
        var weights = context.AttentionMask is { } mask
            ? cat([ones([output.Rows, output.VirtualLength], mask.dtype, mask.device), mask], 1).to(output.Hidden.dtype)
            : ones([output.Rows, output.Length], output.Hidden.dtype, output.Hidden.device);
        weights = weights.div(weights.sum(1, keepdim: true)).unsqueeze(1);
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [output.Hidden], []) : Form(output.Hidden);

        Tensor Form(Tensor hidden) => weights.bmm(hidden.view(output.Rows, output.Length, -1)).squeeze(1);
    }
}

/// <summary>A classifier of tokens.</summary>
internal sealed class ModernBertTokenClassificationModel : TokenClassificationModel
{
    private const string HeadName = "classifier";

    private readonly ModernBertPredictionHead _head;
    private readonly Dropout _dropout;
    private readonly Linear _classifier;

    public ModernBertTokenClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _head = Add("head", new ModernBertPredictionHead(config));
        _dropout = Add("drop", new ModernBertConfig(config).Dropout("classifier_dropout"));
        _classifier = Add(HeadName, new Linear(Backbone.Width, SequenceClassificationModel.Labels(config), hasBias: true));
    }

    public override string? ClassificationHead => HeadName;

    public override IReadOnlyList<string> FreshModules => ["head", HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        context = output.In(context);
        return _classifier.Forward(_dropout.Forward(_head.Forward(output.Hidden, context), context), context);
    }
}

/// <summary>ModernBERT's heads.</summary>
internal static class ModernBertHeads
{
    public static IReadOnlyList<HeadRow> All { get; } =
    [
        new("ForMaskedLM", "MASKED_LM", static (config, name) => new ModernBertMaskedModel(config, name)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new ModernBertSequenceClassificationModel(config, name)),
        new("ForTokenClassification", "TOKEN_CLS", static (config, name) => new ModernBertTokenClassificationModel(config, name)),
        HeadRow.Features,
    ];
}
