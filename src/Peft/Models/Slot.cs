using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// What a layer asks of whatever is attached to one of its parameters. Layers know nothing of adapters beyond this;
/// <c>Peft.Adapters.Slots.AdapterSlot</c> is the one implementation.
/// </summary>
public abstract class Slot
{
    /// <summary>The parameter that replaces the layer's own under this context (modules to save, trained biases), or null.</summary>
    public abstract Parameter? Overlay(ForwardContext context);

    /// <summary>What acts on the layer's product under this context.</summary>
    public abstract SlotPlan Plan(ForwardContext context);

    /// <summary>
    /// Runs the layer through everything that acts, whatever it is: inputs pass from the outermost adapter to the innermost,
    /// the base product is formed, outputs come back. In training each adapter's part is a plain piece on the tape.
    /// </summary>
    /// <param name="x">Input, [..., in].</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="baseProduct">
    /// Forms the layer's own output from an input under a context (in a mixed batch, that of one group of rows: it decides which
    /// overlay <see cref="Parameter.Effective"/> gives) and records itself on that context's tape.
    /// </param>
    public abstract Tensor Forward(Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct);
}

/// <summary>What acts in a slot: nothing, only low-rank changes (which the layer computes itself, fused), or something that needs <see cref="Slot.Forward"/>.</summary>
/// <param name="LowRank">Low-rank changes in order; empty when nothing acts or when <paramref name="NeedsForward"/>.</param>
/// <param name="NeedsForward">Whether the layer must go through <see cref="Slot.Forward"/>.</param>
public readonly record struct SlotPlan(IReadOnlyList<LowRank> LowRank, bool NeedsForward)
{
    /// <summary>What acts in the weight itself, with which a linear layer forms its product; null for nothing, and for any other kind of layer.</summary>
    public WeightChange? Weight { get; init; }

    /// <summary>Nothing acts.</summary>
    public static SlotPlan Empty { get; } = new([], NeedsForward: false);

    /// <summary>Whether nothing acts.</summary>
    public bool IsEmpty => !NeedsForward && LowRank.Count == 0 && Weight is null;
}

/// <summary>The change y += scale · (dropout(x) Aᵀ) Bᵀ (+ scale · bias) of LoRA (Hu et al. 2021) and of every method whose change is a product of two factors.</summary>
/// <param name="A">[rank, in].</param>
/// <param name="B">[out, rank].</param>
/// <param name="Bias">[out] or null: the bias of B, which <c>lora_bias</c> trains.</param>
/// <param name="Scale">Multiplies the change.</param>
/// <param name="Dropout">Probability with which an input element is dropped in training.</param>
public sealed record LowRank(Parameter A, Parameter B, Parameter? Bias, double Scale, double Dropout)
{
    /// <summary>The positions on which it acts; null for all.</summary>
    public AdapterSpan? Span { get; init; }

    /// <summary>[rank]: values between the factors, B · diag · A (AdaLoRA's, KaSA's); null for none.</summary>
    public Parameter? Inner { get; init; }

    /// <summary>[out]: the trained length that each output's weights with the change have (DoRA); null where they keep their own.</summary>
    public Parameter? Magnitude { get; init; }

    /// <summary>Whether anything of it is trained.</summary>
    internal bool IsTrained => A.IsTrained || B.IsTrained || Bias is { IsTrained: true } || Inner is { IsTrained: true } || Magnitude is { IsTrained: true };

    /// <summary>The first factor as it acts, values between the factors among it: they are few, tokens are many.</summary>
    internal Tensor FactorA(ScalarType type) => Inner is null ? A.In(type) : A.Data.mul(Inner.Data.view(-1, 1)).to(type);

    /// <summary>The second factor.</summary>
    internal Tensor FactorB(ScalarType type) => B.In(type);

    /// <summary>Adds a gradient of <see cref="FactorA"/> to those of its parts.</summary>
    internal void AddGradientOfA(Tensor gradient)
    {
        if (Inner is null)
        {
            A.Gradient?.add_(gradient);
            return;
        }

        A.Gradient?.add_(gradient.mul(Inner.Data.view(-1, 1)));
        Inner.Gradient?.add_(gradient.mul(A.Data).sum(1).view([.. Inner.Shape]));
    }
}
