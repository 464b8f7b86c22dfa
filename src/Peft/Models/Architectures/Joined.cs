using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>Attention whose files hold q, k and v as one layer (Phi-3).</summary>
internal sealed class JoinedAttention : LlamaMixer
{
    private readonly AttentionShape _shape;
    private readonly Linear _projections;
    private readonly Linear _output;
    private readonly long _window;

    public JoinedAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention", layer)
    {
        _window = config.Window(layer) ?? 0;
        _shape = config.Attention;
        _output = Add("o_proj", new Linear(_shape.Heads * _shape.HeadSize, config.HiddenSize));
        _projections = Add("qkv_proj", new Linear(config.HiddenSize, _shape.AllHeads * _shape.HeadSize));
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context) => _output.Forward(
        Attention.Forward(_projections.Forward(x, context), _shape, pass.RotaryOf(_window), pass.Plans[_window], Layer, context), context, residual);
}

/// <summary>The gated MLP whose files hold gate and up as one layer (Phi-3, GLM-4).</summary>
internal sealed class JoinedMLP : FeedForward
{
    private readonly Linear _projections;
    private readonly Linear _down;
    private readonly Activation _activation;

    public JoinedMLP(LlamaConfig config)
        : base(config.Stem + "MLP")
    {
        _projections = Add("gate_up_proj", new Linear(config.HiddenSize, 2 * config.InnerSize));
        _down = Add("down_proj", new Linear(config.InnerSize, config.HiddenSize));
        _activation = Add("activation_fn", new Activation(config.ActivationName));
    }

    internal override long KeptBytes(int elementBytes) => GatedActivation.KeptBytesOf(_activation, _down.Inputs, elementBytes);

    /// <inheritdoc/>
    public override IReadOnlyList<Tensor> Forward(Tensor x, Tensor? residual, ForwardContext context) =>
        [_down.Forward(GatedActivation.Forward(_projections.Forward(x, context), _activation, context), context, residual)];
}
