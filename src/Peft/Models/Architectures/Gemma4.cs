using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What all blocks of Gemma 4's pass share: positions and who sees whom, of layers with a window and of those that see everything.</summary>
internal sealed record Gemma4Pass((RotaryTables Rotary, AttentionPlan Plan) Sliding, (RotaryTables Rotary, AttentionPlan Plan) Full);

/// <summary>What a block reads beside its input.</summary>
/// <param name="PerLayer">What the tokens say to this layer, [rows · length, size]; null for nothing.</param>
/// <param name="Keys">Keys of the layer whose it takes; null where it has its own.</param>
/// <param name="Values">Values of that layer.</param>
internal readonly record struct Gemma4Beside(Tensor? PerLayer, Tensor? Keys, Tensor? Values);

/// <summary>
/// Attention over normed queries, keys and values, whose scores are not scaled. The last layers take keys and values of the last layer of their
/// kind that forms its own; where keys and values are one, values are keys before they are normed and turned.
/// </summary>
internal sealed class Gemma4Attention : Module
{
    private readonly AttentionShape _shape;
    private readonly bool _isSliding;
    private readonly int _source;
    private readonly LinearGroup _projections;
    private readonly RmsNorm _queryNorm;
    private readonly RmsNorm? _keyNorm;
    private readonly PlainRmsNorm? _valueNorm;
    private readonly bool _hasValues;
    private readonly Linear _output;

    public Gemma4Attention(Gemma4Config config, int layer)
        : base("Gemma4TextAttention")
    {
        _shape = config.Attention(layer);
        _isSliding = config.IsSliding(layer);
        _source = config.KeySource(layer);
        _hasValues = !config.KeysAreValues || _isSliding;
        var queries = Add("q_proj", Projection(config.Width, _shape.Heads * _shape.HeadSize));
        _queryNorm = Add("q_norm", config.Norm(_shape.HeadSize));
        if (_source == layer)
        {
            _keyNorm = Add("k_norm", config.Norm(_shape.HeadSize));
            _valueNorm = Add("v_norm", config.PlainNorm());
            var shared = _shape.KeyValueHeads * _shape.HeadSize;
            var keys = Add("k_proj", Projection(config.Width, shared));
            _projections = _hasValues ? Group(queries, keys, Add("v_proj", Projection(config.Width, shared))) : Group(queries, keys);
        }
        else
        {
            _projections = Group(queries);
        }

        _output = Add("o_proj", Projection(_shape.Heads * _shape.HeadSize, config.Width));

        Linear Projection(long inputs, long outputs) => new(inputs, outputs, config.HasAttentionBias);
    }

    /// <summary>Attention of x, and its keys and values.</summary>
    public (Tensor Output, Tensor Keys, Tensor Values) Forward(Tensor x, Gemma4Beside beside, Gemma4Pass pass, ForwardContext context)
    {
        var (rotary, plan) = _isSliding ? pass.Sliding : pass.Full;
        var projected = _projections.Forward(x, context);
        if (beside is { Keys: { } keys, Values: { } values })
        {
            return (_output.Forward(Attend(projected, keys, values, rotary, plan, context), context), keys, values);
        }

        var width = _shape.KeyValueHeads * _shape.HeadSize;
        var parts = Splitting.Forward(projected, [_shape.Heads * _shape.HeadSize, width, .. _hasValues ? [width] : Array.Empty<long>()], context);
        keys = rotary.Forward(_keyNorm!.Forward(parts[1], context), _shape.HeadSize, context);
        values = _valueNorm!.Forward(parts[_hasValues ? 2 : 1], _shape.HeadSize, context);
        return (_output.Forward(Attend(parts[0], keys, values, rotary, plan, context), context), keys, values);
    }

    private Tensor Attend(Tensor queries, Tensor keys, Tensor values, RotaryTables rotary, AttentionPlan plan, ForwardContext context)
    {
        queries = rotary.Forward(_queryNorm.Forward(queries, context), _shape.HeadSize, context);
        return Attention.Forward(queries, keys, values, _shape, null, plan, _source, WithOwnPrefix(context), areStored: _keyNorm is null);
    }

    // A prefix has the widest layer's place; of it narrower layers take the first elements, as PEFT has it.
    private ForwardContext WithOwnPrefix(ForwardContext context)
    {
        if (context.Prompt is not { KeyValues: { } all } prompt || all[_source].Keys.size(3) <= _shape.HeadSize)
        {
            return context;
        }

        KeyValuePrefix[] own = [.. all];
        own[_source] = new KeyValuePrefix(Narrowed(all[_source].Keys), Narrowed(all[_source].Values));
        return context with { Prompt = prompt with { KeyValues = own } };

        Tensor Narrowed(Tensor part) => ParameterTensor.Run(values => values[0].narrow(3, 0, _shape.HeadSize).contiguous(), [part], [], context);
    }
}

/// <summary>The gated MLP; layers that take another's keys and values may have one twice as wide.</summary>
internal sealed class Gemma4MLP : Module
{
    private readonly LinearGroup _projections;
    private readonly Linear _down;
    private readonly Activation _activation;

    public Gemma4MLP(Gemma4Config config, int layer)
        : base("Gemma4TextMLP")
    {
        var inner = config.InnerSize(layer);
        var (gate, up) = (Add("gate_proj", new Linear(config.Width, inner)), Add("up_proj", new Linear(config.Width, inner)));
        _down = Add("down_proj", new Linear(inner, config.Width));
        _activation = Add("act_fn", config.Activation());
        _projections = Group(gate, up);
    }

    public Tensor Forward(Tensor x, ForwardContext context) =>
        _down.Forward(GatedActivation.Forward(_projections.Forward(x, context), _activation, context), context);
}

/// <summary>Chooses experts by the normed residual; their weights are renormalised, and then multiplied by a factor of each expert.</summary>
internal sealed class Gemma4Router : Module
{
    private readonly PlainRmsNorm _norm;
    private readonly Linear _projection;
    private readonly Parameter _scale;
    private readonly Parameter _expertScale;
    private readonly double _rootScale;
    private readonly int _chosen;

    public Gemma4Router(Gemma4Config config)
        : base("Gemma4TextRouter")
    {
        _rootScale = 1 / Math.Sqrt(config.Width);
        _chosen = (int)config.ChosenExperts;
        _norm = Add("norm", config.PlainNorm());
        _projection = Add("proj", new Linear(config.Width, config.Experts));
        _scale = AddParameter("scale", [config.Width]);
        _expertScale = AddParameter("per_expert_scale", [config.Experts]);
    }

    /// <summary>Where tokens go; the scores are probabilities.</summary>
    public Routing Forward(Tensor x, ForwardContext context)
    {
        var normed = _norm.Forward(x, x.size(1), context);
        var scaled = ParameterTensor.Run(values => values[0] * values[1] * _rootScale, [normed], [_scale], context);
        var scores = _projection.Forward(scaled, context);
        var probabilities = ParameterTensor.Run(static values => values[0].to(ScalarType.Float32).softmax(-1), [scores], [], context);
        var experts = probabilities.topk(_chosen, -1).indexes;
        var weights = ParameterTensor.Run(
            values =>
            {
                var best = values[0].gather(1, experts);
                return (best / best.sum(-1, keepdim: true) * values[1].index_select(0, experts.reshape(-1)).view(experts.shape)).to(x.dtype);
            },
            [probabilities],
            [_expertScale],
            context);
        return new Routing(probabilities, weights, experts);
    }
}

/// <summary>
/// A block: x + norm(attention(norm(x))), then x + norm(mlp(norm(x))), where experts stand beside the MLP with norms of their own; then what the
/// tokens say to this layer, gated by x; and all of it times a number.
/// </summary>
internal sealed class Gemma4Layer : Module
{
    private readonly Gemma4Attention _attention;
    private readonly Gemma4MLP _mlp;
    private readonly RmsNorm _inputNorm;
    private readonly RmsNorm _attentionNorm;
    private readonly RmsNorm _innerNorm;
    private readonly RmsNorm _outputNorm;
    private readonly Parameter _scalar;
    private readonly (Activation Activation, Linear Gate, Linear Projection, RmsNorm Norm)? _perLayer;
    private readonly (Gemma4Router Router, Experts Experts, RmsNorm MlpNorm, RmsNorm OutputNorm, RmsNorm InputNorm)? _mixture;
    private readonly bool _givesKeys;

    public Gemma4Layer(Gemma4Config config, int layer)
        : base("Gemma4TextDecoderLayer")
    {
        _givesKeys = config.GivesKeys(layer);
        _attention = Add("self_attn", new Gemma4Attention(config, layer));
        _mlp = Add("mlp", new Gemma4MLP(config, layer));
        _inputNorm = Norm("input_layernorm");
        _attentionNorm = Norm("post_attention_layernorm");
        _innerNorm = Norm("pre_feedforward_layernorm");
        _outputNorm = Norm("post_feedforward_layernorm");
        _scalar = AddBuffer("layer_scalar", [1]);
        if (config.PerLayerSize > 0)
        {
            _perLayer = (
                Add("act_fn", config.Activation()),
                Add("per_layer_input_gate", new Linear(config.Width, config.PerLayerSize)),
                Add("per_layer_projection", new Linear(config.PerLayerSize, config.Width)),
                Norm("post_per_layer_input_norm"));
        }

        if (config.HasExperts)
        {
            _mixture = (
                Add("router", new Gemma4Router(config)),
                Add("experts", new Experts(new ExpertSizes(config.Experts, config.Width, config.ExpertSize), "Gemma4TextExperts", config.Activation())),
                Norm("post_feedforward_layernorm_1"),
                Norm("post_feedforward_layernorm_2"),
                Norm("pre_feedforward_layernorm_2"));
        }

        RmsNorm Norm(string name) => Add(name, config.Norm(config.Width));
    }

    /// <summary>The block's output, then the router's probabilities where it has one, then keys and values that others read.</summary>
    public IReadOnlyList<Tensor> Forward(Tensor x, Gemma4Beside beside, Gemma4Pass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (attended, keys, values) = _attention.Forward(_inputNorm.Forward(x, context), beside, pass, context);
        x = ResidualSum.Forward(x, _attentionNorm.Forward(attended, context), context);
        var inner = _mlp.Forward(_innerNorm.Forward(x, context), context);
        Routing? routing = null;
        if (_mixture is { } mixture)
        {
            routing = mixture.Router.Forward(x, context);
            var sparse = mixture.Experts.Forward(mixture.InputNorm.Forward(x, context), null, routing, context);
            inner = ResidualSum.Forward(mixture.MlpNorm.Forward(inner, context), mixture.OutputNorm.Forward(sparse, context), context);
        }

        x = ResidualSum.Forward(x, _outputNorm.Forward(inner, context), context);
        if (_perLayer is { } own && beside.PerLayer is { } said)
        {
            var gated = ParameterTensor.Run(tensors => own.Activation.Apply(tensors[0]) * tensors[1], [own.Gate.Forward(x, context), said], [], context);
            x = ResidualSum.Forward(x, own.Norm.Forward(own.Projection.Forward(gated, context), context), context);
        }

        var scalar = LinearProduct.Cast(_scalar.Data, x.dtype);
        x = ParameterTensor.Run(tensors => tensors[0] * scalar, [x], [], context);
        IEnumerable<Tensor> router = routing is null ? [] : [routing.Logits];
        return DecoderStack.Kept([x, .. router, .. _givesKeys ? [keys, values] : Array.Empty<Tensor>()]);
    }
}

/// <summary>Vectors of tokens, what the tokens say to each layer, the stack of blocks and the final norm.</summary>
internal sealed class Gemma4Model : Backbone
{
    private readonly Gemma4Config _config;
    private readonly ModuleList<Gemma4Layer> _layers;
    private readonly RmsNorm _norm;
    private readonly RotaryEmbedding _fullRotary;
    private readonly RotaryEmbedding _slidingRotary;
    private readonly (Embedding Tokens, Linear Projection, RmsNorm Norm)? _perLayer;

    public Gemma4Model(ModelConfig source)
        : base(source, "Gemma4TextModel")
    {
        _config = new Gemma4Config(source);
        Width = _config.Width;
        TokenEmbeddings = Add("embed_tokens", Table(_config.VocabularySize, Width));
        _layers = Add("layers", new ModuleList<Gemma4Layer>(Enumerable.Range(0, _config.Layers).Select(i => new Gemma4Layer(_config, i))));
        _norm = Add("norm", _config.Norm(Width));
        _fullRotary = Add("rotary_emb", _config.Rotary(isSliding: false));
        _slidingRotary = _config.Rotary(isSliding: true);
        if (_config.PerLayerSize > 0)
        {
            _perLayer = (
                Add("embed_tokens_per_layer", Table(source.Size("vocab_size_per_layer_input", 262_144), _config.Layers * _config.PerLayerSize, _config.PerLayerSize)),
                Add("per_layer_model_projection", new Linear(Width, _config.Layers * _config.PerLayerSize)),
                Add("per_layer_projection_norm", _config.Norm(_config.PerLayerSize)));
        }

        Embedding Table(long count, long size, long? scaledBy = null) =>
            new(count, size, source.Integer("pad_token_id"), "Gemma4TextScaledWordEmbedding", Math.Sqrt(scaledBy ?? size));
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings { get; }

    public override (long Heads, long Size)? KeyValueShape => _config.WidestKeys;

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var (type, device) = (embeddings.dtype, embeddings.device);
        var pass = new Gemma4Pass(
            (_slidingRotary.For(context, type, device), AttentionPlan.Causal(context, device, _config.Window)),
            (_fullRotary.For(context, type, device), AttentionPlan.Causal(context, device)));
        var said = PerLayer(embeddings, inputs, context);
        var stack = DecoderStack.Run(_layers.Items, embeddings, Beside, context, (layer, values, inner) => layer.Forward(values[0], Read(values), pass, inner));
        return new BackboneOutput(_norm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs,
            RouterLogits = _config.HasExperts ? [.. stack.Sides.Select(static sides => sides[0])] : [],
        };

        // What the next layer reads: its part of what the tokens say, and keys and values of the layer whose it takes.
        IReadOnlyList<Tensor> Beside(IReadOnlyList<IReadOnlyList<Tensor>> sides)
        {
            var layer = sides.Count;
            IEnumerable<Tensor> own = said is null ? [] : [said[layer]];
            return _config.KeySource(layer) is var from && from < layer ? [.. own, .. sides[from].TakeLast(2)] : [.. own];
        }

        Gemma4Beside Read(IReadOnlyList<Tensor> values)
        {
            var first = said is null ? 1 : 2;
            return new Gemma4Beside(said is null ? null : values[1], values.ElementAtOrDefault(first), values.ElementAtOrDefault(first + 1));
        }
    }

    /// <summary>(norm(projection / sqrt(width)) + embedding · sqrt(size)) / sqrt(2), cut into a part for each layer.</summary>
    private Tensor[]? PerLayer(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        if (_perLayer is not { } own)
        {
            return null;
        }

        var projected = Scaling.Forward(own.Projection.Forward(embeddings, context), 1 / Math.Sqrt(Width), context);
        var sum = ResidualSum.Forward(own.Norm.Forward(projected, context), own.Tokens.Forward(Ids(inputs, context), context), context);
        return Splitting.Forward(Scaling.Forward(sum, 1 / Math.Sqrt(2), context), [.. Enumerable.Repeat(_config.PerLayerSize, _config.Layers)], context);
    }

    // A prompt's virtual tokens in front have no ids: padding's vector stands for them, as it does for an image's.
    private Tensor Ids(ModelInputs inputs, ForwardContext context)
    {
        var ids = inputs.RequiredIds;
        var missing = context.Length - ids.size(1);
        return missing == 0 ? ids : cat([full([ids.size(0), missing], Config.Integer("pad_token_id") ?? 0, ids.dtype, ids.device), ids], 1);
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _slidingRotary.Dispose();
        }

        base.Dispose(disposing);
    }
}
