using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>Attention whose files hold q, k and v as one layer (Phi-3).</summary>
internal sealed class JoinedAttention : LlamaMixer
{
    private readonly AttentionShape shape;
    private readonly Linear projections;
    private readonly Linear output;
    private readonly int layer;
    private readonly long window;

    public JoinedAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention")
    {
        this.layer = layer;
        window = config.Window(layer) ?? 0;
        shape = config.Attention;
        output = Add("o_proj", new Linear(shape.Heads * shape.HeadSize, config.HiddenSize));
        projections = Add("qkv_proj", new Linear(config.HiddenSize, shape.AllHeads * shape.HeadSize));
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context) => output.Forward(
        Attention.Forward(projections.Forward(x, context), shape, pass.RotaryOf(window), pass.Plans[window], layer, context), context, residual);
}

/// <summary>The gated MLP whose files hold gate and up as one layer (Phi-3, GLM-4).</summary>
internal sealed class JoinedMLP : FeedForward
{
    private readonly Linear projections;
    private readonly Linear down;
    private readonly Activation activation;

    public JoinedMLP(LlamaConfig config)
        : base(config.Stem + "MLP")
    {
        projections = Add("gate_up_proj", new Linear(config.HiddenSize, 2 * config.InnerSize));
        down = Add("down_proj", new Linear(config.InnerSize, config.HiddenSize));
        activation = Add("activation_fn", new Activation(config.ActivationName));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Tensor> Forward(Tensor x, Tensor? residual, ForwardContext context) =>
        [down.Forward(GatedActivation.Forward(projections.Forward(x, context), activation, context), context, residual)];
}
