using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>
/// Granite 4.0-H (IBM 2025): Mamba-2 in most layers (Dao and Gu 2024), attention in the others, an MLP that all tokens visit beside routed
/// experts, and multipliers on embeddings, residuals, scores and logits.
/// </summary>
internal sealed class GraniteHybridModel : Backbone
{
    private readonly ModuleList<GraniteHybridLayer> _layers;
    private readonly RmsNorm _norm;
    private readonly RotaryEmbedding? _rotary;
    private readonly double _multiplier;

    public GraniteHybridModel(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        var config = new LlamaConfig(source, new LlamaTraits());
        Width = config.HiddenSize;
        _multiplier = source.Number("embedding_multiplier") ?? 1;
        TokenEmbeddings = Add("embed_tokens", new Embedding(config.VocabularySize, config.HiddenSize, source.Integer("pad_token_id")));
        _layers = Add("layers", new ModuleList<GraniteHybridLayer>(Enumerable.Range(0, config.Layers).Select(i => new GraniteHybridLayer(config, i))));
        _norm = Add("norm", config.Norm(config.HiddenSize));
        _rotary = source.String("position_embedding_type") == "rope"
            ? Add("rotary_emb", new RotaryEmbedding(new RotaryFrequencies(source, config.Attention.HeadSize), config.Stem + "RotaryEmbedding"))
            : null;
    }

    /// <summary>Experts lie in stacks under names of their own.</summary>
    public static KeyMap Keys { get; } = new(
        new KeyRule("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.input_linear.weight"),
        new KeyRule("block_sparse_moe.experts.down_proj", "block_sparse_moe.output_linear.weight"),
        new KeyRule("block_sparse_moe.router", "block_sparse_moe.router.layer"));

    public static JsonObject Defaults { get; } = new()
    {
        ["tie_word_embeddings"] = false,
        ["attention_multiplier"] = 1.0,
        ["num_experts_per_tok"] = 2,
        ["num_local_experts"] = 8,
    };

    public override long Width { get; }

    public override Embedding TokenEmbeddings { get; }

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var device = embeddings.device;
        var pass = new LlamaPass(
            _rotary?.For(context, embeddings.dtype, device),
            new Dictionary<long, AttentionPlan> { [0] = AttentionPlan.Causal(context, device) },
            SequenceLayout.For(context, device));
        var grown = ParameterTensor.Run(values => values[0] * _multiplier, [embeddings], [], context);
        var stack = DecoderStack.Run(_layers.Items, grown, [], context, (layer, values, inner) => layer.Forward(values[0], pass, inner));
        var routers = stack.AllSides;
        return new BackboneOutput(_norm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs,
            RouterLogits = routers,
            AuxiliaryLoss = RouterBalance.Loss(Config, routers, context),
        };
    }
}

/// <summary>A block: what mixes positions, then experts and the shared MLP side by side, each sum multiplied before it is added.</summary>
internal sealed class GraniteHybridLayer : Module
{
    private readonly LlamaMixer _mixer;
    private readonly SparseMoeBlock? _experts;
    private readonly GraniteHybridMLP _shared;
    private readonly RmsNorm _inputNorm;
    private readonly RmsNorm _innerNorm;
    private readonly double _multiplier;

    public GraniteHybridLayer(LlamaConfig config, int layer)
        : base(config.Stem + "DecoderLayer")
    {
        var source = config.Source;
        _multiplier = source.Number("residual_multiplier") ?? 1;
        _inputNorm = Add("input_layernorm", config.Norm(config.HiddenSize));
        _innerNorm = Add("post_attention_layernorm", config.Norm(config.HiddenSize));
        if (source.Size("num_local_experts", 8, least: 0, most: 4096) is > 0 and var count)
        {
            var rule = new RouterRule(Mixture.Chosen(config), RouterScores.SoftmaxOfChosen);
            _experts = Add("block_sparse_moe", Mixture.Block(config, new SparseBlock(count, config.InnerSize, rule) { ClassSuffix = "MoE", Router = "router" }));
        }

        _shared = Add("shared_mlp", new GraniteHybridMLP(config));
        _mixer = IsAttention(source, layer) ? new LlamaAttention(config, layer) : new Mamba2(config, layer);
        Add(_mixer.LocalName, _mixer);
    }

    public IReadOnlyList<Tensor> Forward(Tensor x, LlamaPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var mixed = ResidualSum.Forward(x, _mixer.Forward(_inputNorm.Forward(x, context), null, pass, context), context, _multiplier);
        var normed = _innerNorm.Forward(mixed, context);
        var computed = _shared.Forward(normed, context);
        var outputs = _experts?.Forward(normed, computed, context) ?? [computed];
        return DecoderStack.Kept([ResidualSum.Forward(mixed, outputs[0], context, _multiplier), .. outputs.Skip(1)]);
    }

    private static bool IsAttention(ModelConfig config, int layer) =>
        config.TextOf("layer_types", layer) is "attention" or "full_attention";
}

/// <summary>The gated MLP with gate and up in one layer.</summary>
internal sealed class GraniteHybridMLP : Module
{
    private readonly Activation _activation;
    private readonly Linear _input;
    private readonly Linear _output;

    public GraniteHybridMLP(LlamaConfig config)
        : base(config.Stem + "MLP")
    {
        var inner = config.Source.Size("shared_intermediate_size", 1024);
        _activation = Add("activation", new Activation(config.ActivationName));
        _input = Add("input_linear", new Linear(config.HiddenSize, 2 * inner));
        _output = Add("output_linear", new Linear(inner, config.HiddenSize));
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _output.Forward(GatedActivation.Forward(_input.Forward(x, context), _activation, context), context);
}

/// <summary>Mamba-2: a state for each head that decays with the step the token asks for; its cache keeps the last inputs of the convolution and the state.</summary>
internal sealed class Mamba2 : LlamaMixer
{
    private readonly long _heads;
    private readonly long _headSize;
    private readonly long _groups;
    private readonly long _stateSize;
    private readonly long _inner;
    private readonly (double Least, double Most)? _limit;
    private readonly ShortConvolution _convolution;
    private readonly Linear _input;
    private readonly Linear _output;
    private readonly GatedRmsNorm _norm;
    private readonly Parameter _timeBias;
    private readonly Parameter _logDecay;
    private readonly Parameter _skip;
    private readonly Activation _activation;

    public Mamba2(LlamaConfig config, int layer)
        : base(config.Stem + "MambaLayer", layer, "mamba")
    {
        var source = config.Source;
        _heads = source.Size("mamba_n_heads", 128);
        _groups = source.Size("mamba_n_groups", 1);
        _stateSize = source.Size("mamba_d_state", 256);
        _inner = (long)((source.Number("mamba_expand") ?? 2) * config.HiddenSize);
        _headSize = source.String("mamba_d_head") is null && source.Node("mamba_d_head") is not null ? source.Size("mamba_d_head", 64) : _inner / _heads;
        if (_heads * _headSize != _inner || _heads % _groups != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"{_heads} heads of width {_headSize} in {_groups} groups don't make up a width of {_inner}.")) { Target = "mamba_d_head" };
        }

        _limit = Limit(source.Node("time_step_limit") as JsonArray);
        var hasBias = source.Boolean("mamba_proj_bias") ?? false;
        var channels = _inner + (2 * _groups * _stateSize);
        _activation = Add("act", new Activation(config.ActivationName));
        _convolution = Add("conv1d", new ShortConvolution(channels, source.Size("mamba_d_conv", 4, most: 64), source.Boolean("mamba_conv_bias") ?? true));
        _input = Add("in_proj", new Linear(config.HiddenSize, _inner + channels + _heads, hasBias));
        _timeBias = AddParameter("dt_bias", [_heads]);
        _logDecay = AddParameter("A_log", [_heads], keepsFloat32: true);
        _norm = Add("norm", new GatedRmsNorm(_inner, _inner / _groups, config.NormEpsilon, config.Stem + "RMSNormGated", gatesFirst: true));
        _skip = AddParameter("D", [_heads]);
        _output = Add("out_proj", new Linear(_inner, config.HiddenSize, hasBias));
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var state = context.Cache?.State<TensorState>(Layer);
        var parts = Splitting.Forward(_input.Forward(x, context), [_inner, _convolution.Channels, _heads], context);
        Parameter[] parameters = [_timeBias, _logDecay, _skip, _convolution.Weight, .. _convolution.Bias is { } bias ? new[] { bias } : []];
        var mixed = ParameterTensor.Run(inputs => Mix(inputs, pass.Layout, state), [parts[1], parts[2]], parameters, context);
        return _output.Forward(_norm.Forward(mixed, parts[0], context), context, residual);
    }

    /// <summary>What the convolution gave, in float32; x by its step and by itself; the recurrence and the norm behind it.</summary>
    internal override long KeptBytes(int elementBytes) =>
        ((_convolution.Channels + (2 * _inner)) * sizeof(float))
        + GatedRecurrence.KeptBytes(_heads, _stateSize, _headSize, hasRate: false)
        + GatedRmsNorm.KeptBytesOf(_inner);

    private Tensor Mix(IReadOnlyList<Tensor> inputs, SequenceLayout layout, TensorState? state)
    {
        var (bias, decay, direct) = (inputs[2].to(ScalarType.Float32), inputs[3].to(ScalarType.Float32), inputs[4].to(ScalarType.Float32));
        var (convolved, past) = _convolution.Apply(layout.Gather(inputs[0]), state?.Values.ElementAtOrDefault(0), inputs[5], inputs.ElementAtOrDefault(6));
        convolved = layout.Masked(_activation.Apply(convolved)).to(ScalarType.Float32);
        var x = Heads(convolved, 0, _heads, _headSize);
        var written = Shared(Heads(convolved, _inner, _groups, _stateSize));
        var read = Shared(Heads(convolved, _inner + (_groups * _stateSize), _groups, _stateSize));
        var step = nn.functional.softplus(layout.Gather(inputs[1]).to(ScalarType.Float32) + bias);
        step = _limit is { } range ? step.clamp(range.Least, range.Most) : step;
        var (y, recurrent) = GatedRecurrence.Run(read, written, x * step.unsqueeze(-1), step * decay.exp().neg(), null, state?.Values.ElementAtOrDefault(1));
        state?.Replace(past.clone(), recurrent);
        y = y + (x * direct.unsqueeze(-1));
        return layout.Scatter(layout.Masked(y.reshape(layout.Rows, layout.Length, -1)).to(inputs[0].dtype));
    }

    private static Tensor Heads(Tensor x, long start, long count, long size) => x.narrow(2, start, count * size).reshape(x.size(0), x.size(1), count, size);

    // Each group serves as many consecutive heads.
    private Tensor Shared(Tensor x) => _groups == _heads ? x : x.repeat_interleave(_heads / _groups, 2);

    // Infinity is no number in JSON: a bound that isn't a number is none.
    private static (double, double)? Limit(JsonArray? range) => range is not { Count: 2 } ? null : (ModelConfig.NumberOf(range[0]) ?? 0, ModelConfig.NumberOf(range[1]) ?? double.PositiveInfinity);
}
