using System.Text.Json.Nodes;
using Peft.Engine;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>Qwen3.5: a recurrence by the gated delta rule in most layers (Yang et al. 2024), in the others attention whose output has a gate.</summary>
internal static class Qwen35
{
    private const string Linear = "linear_attention";

    public static LlamaTraits Dense { get; } = new()
    {
        Part = "Text",
        AddsOneToNorms = true,
        RotaryShare = 0.25,
        Mixer = static (config, layer) => IsRecurrent(config.Source, layer) ? new GatedDeltaNet(config, layer) : new GatedAttention(config, layer),
    };

    public static LlamaTraits Sparse { get; } = Dense with
    {
        FeedForward = static (config, _) => Mixture.Block(config, Mixture.SharedBlock(config, normalises: true)),
    };

    public static JsonObject Defaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 248320, "intermediate_size": 12288, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 32768
        }
        """);

    public static JsonObject SparseDefaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
            "max_position_embeddings": 32768, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8,
            "num_experts": 256
        }
        """);

    /// <summary>Of the model of several parts, whose output layer is its own.</summary>
    public static JsonObject WrapperDefaults { get; } = new() { ["tie_word_embeddings"] = false };

    public static bool IsRecurrent(ModelConfig config, int layer) => config.TextOf("layer_types", layer) is { } kind
        ? kind == Linear
        : (layer + 1) % config.Size("full_attention_interval", 4) != 0;
}

/// <summary>Attention with normed heads and a gate on its output: each head of q_proj holds its query, then its gate.</summary>
internal sealed class GatedAttention : LlamaMixer
{
    private readonly AttentionShape _shape;
    private readonly Linear _query;
    private readonly LinearGroup _keysAndValues;
    private readonly Linear _output;
    private readonly RmsNorm _queryNorm;
    private readonly RmsNorm _keyNorm;

    public GatedAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention", layer)
    {
        _shape = config.Attention;
        var width = _shape.KeyValueHeads * _shape.HeadSize;
        _query = Add("q_proj", new Linear(config.HiddenSize, 2 * _shape.Heads * _shape.HeadSize, config.AttentionBias));
        _keysAndValues = Group(
            Add("k_proj", new Linear(config.HiddenSize, width, config.AttentionBias)),
            Add("v_proj", new Linear(config.HiddenSize, width, config.AttentionBias)));
        _output = Add("o_proj", new Linear(_shape.Heads * _shape.HeadSize, config.HiddenSize, config.AttentionBias));
        _queryNorm = Add("q_norm", config.Norm(_shape.HeadSize));
        _keyNorm = Add("k_norm", config.Norm(_shape.HeadSize));
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var width = _shape.KeyValueHeads * _shape.HeadSize;
        var projected = _query.Forward(x, context);
        var parts = Splitting.Forward(_keysAndValues.Forward(x, context), [width, width], context);
        var attended = Attention.Forward(
            _queryNorm.Forward(Half(projected, 0, context), context), _keyNorm.Forward(parts[0], context), parts[1], _shape, pass.Rotary, pass.Plans[0], Layer, context);
        return _output.Forward(SigmoidGate.Forward(attended, Half(projected, 1, context), context), context, residual);
    }

    private Tensor Half(Tensor projected, int half, ForwardContext context) => ParameterTensor.Run(
        inputs => inputs[0].view(inputs[0].size(0), _shape.Heads, 2, _shape.HeadSize).select(2, half).reshape(inputs[0].size(0), -1), [projected], [], context);
}

/// <summary>The gated delta rule over keys, queries and values that pass a short convolution; its cache keeps the last inputs of that and the state.</summary>
internal sealed class GatedDeltaNet : LlamaMixer
{
    private const double NormEpsilon = 1e-6;

    private readonly long _keyHeads;
    private readonly long _valueHeads;
    private readonly long _keySize;
    private readonly long _valueSize;
    private readonly HeadChannels[] _heads;
    private readonly ShortConvolution _convolution;
    private readonly Activation _activation;
    private readonly Parameter _timeBias;
    private readonly Parameter _logDecay;
    private readonly GatedRmsNorm _norm;
    private readonly Linear _output;
    private readonly Linear? _mixed;
    private readonly Linear? _gate;
    private readonly LinearGroup? _rates;
    private readonly JoinedDelta? _joined;
    private readonly Linear? _joinedHeads;
    private readonly Linear? _joinedRates;

    /// <param name="config">The configuration.</param>
    /// <param name="layer">The block's place in the stack.</param>
    /// <param name="isJoined">Whether queries, keys, values and gates come from one layer, and rates and decays from another (Qwen3-Next).</param>
    public GatedDeltaNet(LlamaConfig config, int layer, bool isJoined = false)
        : base(config.Stem + "GatedDeltaNet", layer, "linear_attn")
    {
        var source = config.Source;
        _keyHeads = source.Size("linear_num_key_heads", 16);
        _valueHeads = source.Size("linear_num_value_heads", 32);
        _keySize = source.Size("linear_key_head_dim", 128);
        _valueSize = source.Size("linear_value_head_dim", 128);
        if (_valueHeads % _keyHeads != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"{_valueHeads} value heads can't share {_keyHeads} key heads evenly.")) { Target = "linear_num_key_heads" };
        }

        var keys = _keyHeads * _keySize;
        _heads =
        [
            new HeadChannels(0, _keyHeads, _keySize, 1 / Math.Sqrt(_keySize)),
            new HeadChannels(keys, _keyHeads, _keySize, 1),
            new HeadChannels(2 * keys, _valueHeads, _valueSize),
        ];
        var (channels, values) = ((2 * _keyHeads * _keySize) + (_valueHeads * _valueSize), _valueHeads * _valueSize);
        _convolution = Add("conv1d", new ShortConvolution(channels, source.Size("linear_conv_kernel_dim", 4, most: 64), hasBias: false));
        _activation = new Activation(config.ActivationName);
        _timeBias = AddParameter("dt_bias", [_valueHeads]);
        _logDecay = AddParameter("A_log", [_valueHeads], keepsFloat32: true);
        if (isJoined)
        {
            _joined = new JoinedDelta(_keyHeads, _valueHeads, _keySize, _valueSize);
            _joinedHeads = Add("in_proj_qkvz", new Linear(config.HiddenSize, channels + values));
            _joinedRates = Add("in_proj_ba", new Linear(config.HiddenSize, 2 * _valueHeads));
        }

        _norm = Add("norm", new GatedRmsNorm(_valueSize, _valueSize, config.NormEpsilon, config.Stem + "RMSNormGated", gatesFirst: false));
        _output = Add("out_proj", new Linear(values, config.HiddenSize));
        if (!isJoined)
        {
            _mixed = Add("in_proj_qkv", new Linear(config.HiddenSize, channels));
            _gate = Add("in_proj_z", new Linear(config.HiddenSize, values));
            _rates = Group(Add("in_proj_b", new Linear(config.HiddenSize, _valueHeads)), Add("in_proj_a", new Linear(config.HiddenSize, _valueHeads)));
        }
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var state = context.Cache?.State<TensorState>(Layer);
        var (projected, gate, rates) = Project(x, context);
        var mixedHeads = Mixed(projected, rates, pass.Layout, state, context);
        return _output.Forward(_norm.Forward(mixedHeads, gate ?? _gate!.Forward(x, context), context), context, residual);
    }

    /// <summary>Queries, keys and values; gates, null where they are formed when they are needed; rates and decays.</summary>
    private (Tensor Projected, Tensor? Gate, Tensor Rates) Project(Tensor x, ForwardContext context)
    {
        if (_joined is null)
        {
            return (_mixed!.Forward(x, context), null, _rates!.Forward(x, context));
        }

        var heads = _joinedHeads!.Forward(x, context);
        return (
            ParameterTensor.Run(inputs => _joined.Mixed(inputs[0], -1), [heads], [], context),
            ParameterTensor.Run(inputs => _joined.Gates(inputs[0], -1), [heads], [], context),
            ParameterTensor.Run(inputs => _joined.Rates(inputs[0]), [_joinedRates!.Forward(x, context)], [], context));
    }

    /// <summary>The heads, in float32; the recurrence and the norm behind it. The convolution keeps nothing of its own.</summary>
    internal override long KeptBytes(int elementBytes) =>
        (_convolution.Channels * sizeof(float)) - _convolution.KeptBytes(elementBytes)
        + GatedRecurrence.KeptBytes(_valueHeads, _keySize, _valueSize, hasRate: true)
        + GatedRmsNorm.KeptBytesOf(_valueHeads * _valueSize);

    private Tensor Mixed(Tensor projected, Tensor rates, SequenceLayout layout, TensorState? state, ForwardContext context)
    {
        var weight = _convolution.Weight.Effective(context);
        if (!ConvolvedHeads.Serve(projected, weight, _activation, context))
        {
            return ParameterTensor.Run(inputs => Mix(inputs, layout, state), [projected, rates], [_timeBias, _logDecay, _convolution.Weight], context);
        }

        using var scope = NewDisposeScope();
        var heads = ConvolvedHeads.Forward(projected, weight, layout, _heads, NormEpsilon, context);
        var type = projected.dtype;
        return ParameterTensor.Run(
            inputs => Recur(inputs[0].transpose(1, 2), inputs[1].transpose(1, 2), inputs[2].transpose(1, 2), [inputs[3], inputs[4], inputs[5]], layout, null).Output.to(type),
            [.. heads, rates],
            [_timeBias, _logDecay],
            context).MoveToOuterDisposeScope();
    }

    private Tensor Mix(IReadOnlyList<Tensor> inputs, SequenceLayout layout, TensorState? state)
    {
        var (convolved, past) = _convolution.Apply(layout.Gather(inputs[0]), state?.Values.ElementAtOrDefault(0), inputs[4], null);
        convolved = _activation.Apply(convolved);
        var (q, k, v) = (Heads(convolved, _heads[0]), Heads(convolved, _heads[1]), Heads(convolved, _heads[2]));
        var (y, recurrent) = Recur(Unit(q) * _heads[0].Unit, Unit(k), v, [inputs[1], inputs[2], inputs[3]], layout, state?.Values.ElementAtOrDefault(1));
        state?.Replace(past.clone(), recurrent);
        return y.to(inputs[0].dtype);
    }

    /// <summary>The recurrence over queries, keys and values, [rows, length, heads, size]; what it asks of rates and decays is in the others.</summary>
    private (Tensor Output, Tensor State) Recur(Tensor q, Tensor k, Tensor v, Tensor[] others, SequenceLayout layout, Tensor? state)
    {
        var (gates, bias, decay) = (layout.Gather(others[0]).to(ScalarType.Float32), others[1].to(ScalarType.Float32), others[2].to(ScalarType.Float32));
        var rate = gates.narrow(2, 0, _valueHeads).sigmoid();
        var slope = decay.exp().neg() * nn.functional.softplus(gates.narrow(2, _valueHeads, _valueHeads) + bias);
        var (y, recurrent) = GatedRecurrence.Run(Shared(q), Shared(k), v, slope, rate, state);
        return (layout.Scatter(layout.Masked(y.reshape(layout.Rows, layout.Length, -1))), recurrent);
    }

    private static Tensor Heads(Tensor x, HeadChannels heads) => x.narrow(2, heads.Start, heads.Heads * heads.Size).reshape(x.size(0), x.size(1), heads.Heads, heads.Size);

    private static Tensor Unit(Tensor x)
    {
        var wide = x.to(ScalarType.Float32);
        return wide * (wide.square().sum(-1, keepdim: true) + NormEpsilon).rsqrt();
    }

    // Each key head serves as many consecutive value heads.
    private Tensor Shared(Tensor x) => _valueHeads == _keyHeads ? x : x.repeat_interleave(_valueHeads / _keyHeads, 2);
}
