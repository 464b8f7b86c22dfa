using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a T5's configuration says; what it leaves out is as in the small model (Raffel et al. 2020).</summary>
internal sealed class T5Config
{
    public T5Config(ModelConfig config)
    {
        Source = config;
        Width = config.Size("d_model", 512);
        InnerSize = config.Size("d_ff", 2048);
        VocabularySize = config.Size("vocab_size", 32128);
        Heads = config.Size("num_heads", 8);
        HeadSize = config.Size("d_kv", 64);
        if (Heads * HeadSize > ModelConfig.MaxSize)
        {
            throw new PeftException("ModelConfigInvalid", $"{Heads} attention heads of width {HeadSize} are no sound shape for a model of width {Width}.");
        }

        EncoderLayers = (int)config.Size("num_layers", 6, least: 0, most: 10_000);
        DecoderLayers = (int)config.Size("num_decoder_layers", EncoderLayers, least: 0, most: 10_000);
        Buckets = config.Size("relative_attention_num_buckets", 32, least: 4);
        FarthestDistance = config.Size("relative_attention_max_distance", 128);
        NormEpsilon = config.Number("layer_norm_epsilon") ?? 1e-6;
        DropoutRate = config.Number("dropout_rate") ?? 0.1;
        var projection = config.String("feed_forward_proj") ?? "relu";
        IsGated = projection.StartsWith("gated-", StringComparison.Ordinal);
        ActivationName = projection == "gated-gelu" ? "gelu_new" : IsGated ? projection["gated-".Length..] : projection;
    }

    public ModelConfig Source { get; }

    public long Width { get; }

    public long InnerSize { get; }

    public long VocabularySize { get; }

    public long Heads { get; }

    public long HeadSize { get; }

    public int EncoderLayers { get; }

    public int DecoderLayers { get; }

    public long Buckets { get; }

    public long FarthestDistance { get; }

    public double NormEpsilon { get; }

    public double DropoutRate { get; }

    public bool IsGated { get; }

    public string ActivationName { get; }

    public string Stem => Source.Family.Stem;

    /// <summary>Whether it is of the first release: the output layer shares the embeddings, and the decoder's outputs are scaled before it.</summary>
    public static bool IsFirstRelease(ModelConfig config) => config.Boolean("scale_decoder_outputs") ?? config.Boolean("tie_word_embeddings") ?? true;

    public RmsNorm Norm() => new(Width, NormEpsilon, Stem + "LayerNorm", printsDetails: false);
}

/// <summary>Attention without scaling, over itself or over what the encoder gave; the first of a stack has a bias for each relative position.</summary>
internal sealed class T5Attention : Module
{
    private readonly AttentionShape _shape;
    private readonly Linear _queries;
    private readonly Linear _keys;
    private readonly Linear _values;
    private readonly LinearGroup? _projections;
    private readonly int _layer;

    /// <summary>Makes the structure.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="layer">The layer's index in the cache.</param>
    /// <param name="isAcross">Whether keys and values come from the encoder.</param>
    /// <param name="hasBias">Whether it has the stack's bias of relative positions.</param>
    public T5Attention(T5Config config, int layer, bool isAcross, bool hasBias)
        : base(config.Stem + "Attention")
    {
        _layer = layer;
        _shape = new AttentionShape(config.Heads, config.Heads, config.HeadSize, Scale: 1) { Dropout = config.DropoutRate };
        var inner = config.Heads * config.HeadSize;
        _queries = Add("q", new Linear(config.Width, inner));
        _keys = Add("k", new Linear(config.Width, inner));
        _values = Add("v", new Linear(config.Width, inner));
        Output = Add("o", new Linear(inner, config.Width));
        _projections = isAcross ? null : Group(_queries, _keys, _values);
        Bias = hasBias ? Add("relative_attention_bias", new Embedding(config.Buckets, config.Heads)) : null;
    }

    public Linear Output { get; }

    public Embedding? Bias { get; }

    public Tensor OverItself(Tensor x, Tensor bias, AttentionPlan plan, ForwardContext context) =>
        Attention.Forward(_projections!.Forward(x, context), _shape, null, plan, _layer, context, new ScoreTerms(bias));

    public Tensor Across(Tensor x, Tensor encoded, AttentionPlan plan, ForwardContext context) =>
        CrossAttention.Forward(_queries.Forward(x, context), _keys, _values, encoded, _shape, plan, _layer, context);
}

/// <summary>x + attention(norm(x)).</summary>
internal sealed class T5LayerAttention : Module
{
    private readonly T5Attention _attention;
    private readonly RmsNorm _norm;
    private readonly Dropout _dropout;

    public T5LayerAttention(T5Config config, int layer, bool isAcross, bool hasBias)
        : base(config.Stem + (isAcross ? "LayerCrossAttention" : "LayerSelfAttention"))
    {
        _attention = Add(isAcross ? "EncDecAttention" : "SelfAttention", new T5Attention(config, layer, isAcross, hasBias));
        _norm = Add("layer_norm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Embedding? Bias => _attention.Bias;

    public Tensor OverItself(Tensor x, Tensor bias, AttentionPlan plan, ForwardContext context) =>
        _dropout.AddProjection(_attention.Output, _attention.OverItself(_norm.Forward(x, context), bias, plan, context), x, context);

    public Tensor Across(Tensor x, Tensor encoded, AttentionPlan plan, ForwardContext context) =>
        _dropout.AddProjection(_attention.Output, _attention.Across(_norm.Forward(x, context), encoded, plan, context), x, context);
}

/// <summary>The MLP: wo(act(wi(x))), or with a gate wo(act(wi_0(x)) · wi_1(x)) (Shazeer 2020).</summary>
internal sealed class T5Mlp : Module
{
    private readonly Linear? _inner;
    private readonly LinearGroup? _gated;
    private readonly Dropout _dropout;
    private readonly Activation _activation;

    public T5Mlp(T5Config config)
        : base(config.Stem + (config.IsGated ? "DenseGatedActDense" : "DenseActDense"))
    {
        if (config.IsGated)
        {
            _gated = Group(Add("wi_0", new Linear(config.Width, config.InnerSize)), Add("wi_1", new Linear(config.Width, config.InnerSize)));
        }
        else
        {
            _inner = Add("wi", new Linear(config.Width, config.InnerSize));
        }

        Output = Add("wo", new Linear(config.InnerSize, config.Width) { StaysPlain = true });
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
        _activation = Add("act", new Activation(config.ActivationName));
    }

    public Linear Output { get; }

    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var active = _gated is null
            ? _activation.Forward(_inner!.Forward(x, context), context)
            : GatedActivation.Forward(_gated.Forward(x, context), _activation, context);
        return _dropout.Forward(active, context);
    }
}

/// <summary>x + mlp(norm(x)).</summary>
internal sealed class T5LayerFF : Module
{
    private readonly T5Mlp _mlp;
    private readonly RmsNorm _norm;
    private readonly Dropout _dropout;

    public T5LayerFF(T5Config config)
        : base(config.Stem + "LayerFF")
    {
        _mlp = Add("DenseReluDense", new T5Mlp(config));
        _norm = Add("layer_norm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _dropout.AddProjection(_mlp.Output, _mlp.Forward(_norm.Forward(x, context), context), x, context);
}

/// <summary>A block of either stack.</summary>
internal sealed class T5Block : Module
{
    private readonly T5LayerAttention _self;
    private readonly T5LayerAttention? _cross;
    private readonly T5LayerFF _mlp;

    public T5Block(T5Config config, int layer, bool isDecoder)
        : base(config.Stem + "Block")
    {
        _self = new T5LayerAttention(config, layer, isAcross: false, hasBias: layer == 0);
        _cross = isDecoder ? new T5LayerAttention(config, config.DecoderLayers + layer, isAcross: true, hasBias: false) : null;
        _mlp = new T5LayerFF(config);
        Add("layer", new ModuleList<Module>(_cross is null ? [_self, _mlp] : [_self, _cross, _mlp]));
    }

    public Embedding? Bias => _self.Bias;

    /// <summary>Runs the block.</summary>
    /// <param name="inputs">The hidden states, the bias of relative positions and, in a decoder, what the encoder gave.</param>
    /// <param name="plans">Who sees whom within the stack, and of the encoder's positions.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(IReadOnlyList<Tensor> inputs, (AttentionPlan Own, AttentionPlan? Across) plans, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var x = _self.OverItself(inputs[0], inputs[1], plans.Own, context);
        x = _cross is null ? x : _cross.Across(x, inputs[2], plans.Across!, context);
        return _mlp.Forward(x, context).MoveToOuterDisposeScope();
    }
}

/// <summary>An encoder or a decoder.</summary>
internal sealed class T5Stack : EncoderDecoderHalf
{
    private readonly T5Config _config;
    private readonly bool _isDecoder;
    private readonly ModuleList<T5Block> _blocks;
    private readonly Embedding _words;
    private readonly RmsNorm _norm;
    private readonly Dropout _dropout;
    private long[] _buckets = [];

    public T5Stack(T5Config config, bool isDecoder)
        : base(config.Stem + "Stack")
    {
        _config = config;
        _isDecoder = isDecoder;
        _words = Add("embed_tokens", new Embedding(config.VocabularySize, config.Width));
        _blocks = Add("block", new ModuleList<T5Block>(
            Enumerable.Range(0, isDecoder ? config.DecoderLayers : config.EncoderLayers).Select(i => new T5Block(config, i, isDecoder))));
        _norm = Add("final_layer_norm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public override Tensor Embed(Tensor ids, ForwardContext context) => _words.Forward(ids, context);

    public override BackboneOutput Forward(Tensor embeddings, Tensor? encoded, AttentionPlan? across, ForwardContext context)
    {
        var own = _isDecoder ? AttentionPlan.Causal(context, embeddings.device) : AttentionPlan.BothWays(context, embeddings.device);
        var x = _dropout.Forward(embeddings, context);
        if (_blocks.Items.Count > 0)
        {
            var bias = Bias(context, embeddings.device);
            context.Cache?.Steps.Give(bias);
            IReadOnlyList<Tensor> shared = encoded is null ? [bias] : [bias, encoded];
            var stack = DecoderStack.Run(_blocks.Items, x, shared, context, (block, inputs, inner) => [block.Forward(inputs, (own, across), inner)]);
            x = stack.Output;
        }

        return new BackboneOutput(_dropout.Forward(_norm.Forward(x, context), context), context.Rows, context.Length);
    }

    /// <summary>What is added to scores, [1, heads, queries, keys]: each distance's bias is looked up once.</summary>
    private Tensor Bias(ForwardContext context, Device device)
    {
        var (length, total) = (context.Length, context.Start + context.Length);
        if (_isDecoder && length == 1 && context.Tape is null)
        {
            return _blocks.Items[0].Bias!.Forward(tensor(BucketsUpTo(total), device: device), context).t().reshape(1, _config.Heads, 1, total).contiguous();
        }

        var distances = arange(1 - total, length, ScalarType.Int64, device);
        var table = _blocks.Items[0].Bias!.Forward(RelativeBuckets.Of(distances, !_isDecoder, _config.Buckets, _config.FarthestDistance), context);
        var places = arange(total, ScalarType.Int64, device).unsqueeze(0).sub(arange(context.Start, total, ScalarType.Int64, device).unsqueeze(1)).add(total - 1).reshape(-1);
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [table], []) : Form(table);

        Tensor Form(Tensor values) => values.index_select(0, places).t().reshape(1, _config.Heads, length, total).contiguous();
    }

    /// <summary>The buckets of a last position's keys, the farthest first. They are the same for all texts.</summary>
    private long[] BucketsUpTo(long total)
    {
        var known = _buckets;
        if (known.Length < total)
        {
            using var scope = NewDisposeScope();
            known = RelativeBuckets.Of(arange(1 - (2 * total), 1, ScalarType.Int64), isBothWays: false, _config.Buckets, _config.FarthestDistance).data<long>().ToArray();
            _buckets = known;
        }

        return known[^(int)total..];
    }
}

/// <summary>Relative positions by distance: near ones each its own, farther ones in ranges that grow by the logarithm (Raffel et al. 2020).</summary>
internal static class RelativeBuckets
{
    /// <summary>The bucket of every distance.</summary>
    /// <param name="distances">Key minus query, int64.</param>
    /// <param name="isBothWays">Whether keys behind the query have half of the buckets; otherwise they share the first.</param>
    /// <param name="buckets">Number of buckets.</param>
    /// <param name="farthest">Distance from which on all share the last.</param>
    /// <returns>int64, of the same shape.</returns>
    public static Tensor Of(Tensor distances, bool isBothWays, long buckets, long farthest)
    {
        var count = isBothWays ? buckets / 2 : buckets;
        var away = isBothWays ? distances.abs() : distances.neg().clamp_min(0);
        var exact = count / 2;
        var scaled = away.clamp_min(1).to(ScalarType.Float32).div(exact).log().div(Math.Log((double)farthest / exact)).mul(count - exact);
        var far = scaled.to(ScalarType.Int64).add(exact).clamp_max(count - 1);
        var found = where(away.lt(exact), away, far);
        return isBothWays ? found.add(distances.gt(0).to(ScalarType.Int64).mul(count)) : found;
    }
}

/// <summary>T5's encoder and decoder.</summary>
internal sealed class T5Model : EncoderDecoderBackbone
{
    public T5Model(ModelConfig source)
        : this(source, new T5Config(source))
    {
    }

    private T5Model(ModelConfig source, T5Config config)
        : base(source, new Embedding(config.VocabularySize, config.Width), new T5Stack(config, isDecoder: false), new T5Stack(config, isDecoder: true))
    {
        Width = config.Width;
    }

    public override long Width { get; }
}

/// <summary>The heads of T5 and its relatives.</summary>
internal static class T5Heads
{
    /// <summary>Makes the rows.</summary>
    /// <param name="isFirstRelease">Whether a configuration is of T5's first release, whose output layer shares the embeddings.</param>
    public static IReadOnlyList<HeadRow> With(Func<ModelConfig, bool> isFirstRelease) =>
    [
        new("ForConditionalGeneration", "SEQ_2_SEQ_LM", (config, name) => isFirstRelease(config)
            ? new SequenceToSequenceModel(config, name, isTied: true, Math.Pow(config.Size("d_model", 512), -0.5))
            : new SequenceToSequenceModel(config, name, isTied: false)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new EndOfTextClassificationModel(config, name, "transformer")),
        HeadRow.Features,
    ];
}
