using System.Text.Json.Nodes;
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

    private static bool IsRecurrent(ModelConfig config, int layer) => config.Node("layer_types") is JsonArray kinds && layer < kinds.Count
        ? (string?)kinds[layer] == Linear
        : (layer + 1) % config.Size("full_attention_interval", 4) != 0;
}

/// <summary>Attention with normed heads and a gate on its output: each head of q_proj holds its query, then its gate.</summary>
internal sealed class GatedAttention : LlamaMixer
{
    private readonly AttentionShape shape;
    private readonly Linear query;
    private readonly LinearGroup keysAndValues;
    private readonly Linear output;
    private readonly RmsNorm queryNorm;
    private readonly RmsNorm keyNorm;
    private readonly int layer;

    public GatedAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention")
    {
        this.layer = layer;
        shape = config.Attention;
        var width = shape.KeyValueHeads * shape.HeadSize;
        query = Add("q_proj", new Linear(config.HiddenSize, 2 * shape.Heads * shape.HeadSize, config.AttentionBias));
        keysAndValues = Group(
            Add("k_proj", new Linear(config.HiddenSize, width, config.AttentionBias)),
            Add("v_proj", new Linear(config.HiddenSize, width, config.AttentionBias)));
        output = Add("o_proj", new Linear(shape.Heads * shape.HeadSize, config.HiddenSize, config.AttentionBias));
        queryNorm = Add("q_norm", config.Norm(shape.HeadSize));
        keyNorm = Add("k_norm", config.Norm(shape.HeadSize));
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var width = shape.KeyValueHeads * shape.HeadSize;
        var projected = query.Forward(x, context);
        var parts = Splitting.Forward(keysAndValues.Forward(x, context), [width, width], context);
        var attended = Attention.Forward(
            queryNorm.Forward(Half(projected, 0, context), context), keyNorm.Forward(parts[0], context), parts[1], shape, pass.Rotary, pass.Plans[0], layer, context);
        return output.Forward(SigmoidGate.Forward(attended, Half(projected, 1, context), context), context, residual);
    }

    private Tensor Half(Tensor projected, int half, ForwardContext context) => ParameterTensor.Run(
        inputs => inputs[0].view(inputs[0].size(0), shape.Heads, 2, shape.HeadSize).select(2, half).reshape(inputs[0].size(0), -1), [projected], [], context);
}

/// <summary>The gated delta rule over keys, queries and values that pass a short convolution; its cache keeps the last inputs of that and the state.</summary>
internal sealed class GatedDeltaNet : LlamaMixer
{
    private const double NormEpsilon = 1e-6;

    private readonly long keyHeads;
    private readonly long valueHeads;
    private readonly long keySize;
    private readonly long valueSize;
    private readonly ShortConvolution convolution;
    private readonly Parameter timeBias;
    private readonly Parameter logDecay;
    private readonly GatedRmsNorm norm;
    private readonly Linear output;
    private readonly Linear mixed;
    private readonly Linear gate;
    private readonly LinearGroup rates;
    private readonly int layer;

    public GatedDeltaNet(LlamaConfig config, int layer)
        : base(config.Stem + "GatedDeltaNet", "linear_attn")
    {
        var source = config.Source;
        this.layer = layer;
        keyHeads = source.Size("linear_num_key_heads", 16);
        valueHeads = source.Size("linear_num_value_heads", 32);
        keySize = source.Size("linear_key_head_dim", 128);
        valueSize = source.Size("linear_value_head_dim", 128);
        if (valueHeads % keyHeads != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"{valueHeads} value heads can't share {keyHeads} key heads evenly.")) { Target = "linear_num_key_heads" };
        }

        var (channels, values) = ((2 * keyHeads * keySize) + (valueHeads * valueSize), valueHeads * valueSize);
        convolution = Add("conv1d", new ShortConvolution(channels, source.Size("linear_conv_kernel_dim", 4, most: 64), hasBias: false));
        timeBias = AddParameter("dt_bias", [valueHeads]);
        logDecay = AddParameter("A_log", [valueHeads], keepsFloat32: true);
        norm = Add("norm", new GatedRmsNorm(valueSize, valueSize, config.NormEpsilon, config.Stem + "RMSNormGated", gatesFirst: false));
        output = Add("out_proj", new Linear(values, config.HiddenSize));
        mixed = Add("in_proj_qkv", new Linear(config.HiddenSize, channels));
        gate = Add("in_proj_z", new Linear(config.HiddenSize, values));
        rates = Group(Add("in_proj_b", new Linear(config.HiddenSize, valueHeads)), Add("in_proj_a", new Linear(config.HiddenSize, valueHeads)));
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var state = context.Cache?.State<TensorState>(layer);
        var mixedHeads = ParameterTensor.Run(
            inputs => Mix(inputs, pass.Layout, state),
            [mixed.Forward(x, context), rates.Forward(x, context)],
            [convolution.Weight, timeBias, logDecay],
            context);
        return output.Forward(norm.Forward(mixedHeads, gate.Forward(x, context), context), context, residual);
    }

    private Tensor Mix(IReadOnlyList<Tensor> inputs, SequenceLayout layout, TensorState? state)
    {
        var (weight, bias, decay) = (inputs[2], inputs[3].to(ScalarType.Float32), inputs[4].to(ScalarType.Float32));
        var (convolved, past) = convolution.Apply(layout.Gather(inputs[0]), state?.Values.ElementAtOrDefault(0), weight, null);
        convolved = convolved.silu();
        var (q, k, v) = (Heads(convolved, 0, keyHeads, keySize), Heads(convolved, keyHeads * keySize, keyHeads, keySize), Heads(convolved, 2 * keyHeads * keySize, valueHeads, valueSize));
        var gates = layout.Gather(inputs[1]).to(ScalarType.Float32);
        var rate = gates.narrow(2, 0, valueHeads).sigmoid();
        var slope = decay.exp().neg() * nn.functional.softplus(gates.narrow(2, valueHeads, valueHeads) + bias);
        var (y, recurrent) = GatedRecurrence.Run(
            Shared(Unit(q) * (1 / Math.Sqrt(keySize))), Shared(Unit(k)), v, slope, rate, state?.Values.ElementAtOrDefault(1));
        state?.Replace(past.clone(), recurrent);
        return layout.Scatter(layout.Masked(y.reshape(layout.Rows, layout.Length, -1)).to(inputs[0].dtype));
    }

    private static Tensor Heads(Tensor x, long start, long heads, long size) => x.narrow(2, start, heads * size).reshape(x.size(0), x.size(1), heads, size);

    private static Tensor Unit(Tensor x)
    {
        var wide = x.to(ScalarType.Float32);
        return wide * (wide.square().sum(-1, keepdim: true) + NormEpsilon).rsqrt();
    }

    // Each key head serves as many consecutive value heads.
    private Tensor Shared(Tensor x) => valueHeads == keyHeads ? x : x.repeat_interleave(valueHeads / keyHeads, 2);
}
