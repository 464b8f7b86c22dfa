using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A linear layer, y = x Wᵀ + b (or x W + b where the weight lies the other way round, as GPT-2's do), whose weight can carry adapters.</summary>
public sealed class Linear : Module, IAdaptable
{
    /// <summary>Makes a layer without weights.</summary>
    /// <param name="inputs">Width of the input.</param>
    /// <param name="outputs">Width of the output.</param>
    /// <param name="hasBias">Whether it adds a bias.</param>
    /// <param name="isTransposed">Whether the weight is [inputs, outputs]: transformers' <c>Conv1D</c>.</param>
    /// <param name="className">transformers' class name where it has one of its own; null for <c>Linear</c> or <c>Conv1D</c>.</param>
    public Linear(long inputs, long outputs, bool hasBias = false, bool isTransposed = false, string? className = null)
        : base(className ?? (isTransposed ? "Conv1D" : "Linear"))
    {
        Inputs = inputs;
        IsTransposed = isTransposed;
        Weight = AddParameter("weight", isTransposed ? [inputs, outputs] : [outputs, inputs]);
        Bias = hasBias ? AddParameter("bias", [outputs]) : null;
    }

    /// <summary>Width of the input.</summary>
    public long Inputs { get; }

    /// <summary>Width of the output.</summary>
    public long Outputs => Weight.Shape[IsTransposed ? 1 : 0];

    /// <inheritdoc/>
    public bool IsTransposed { get; }

    /// <summary>Whether it is left as it is when a model is quantised, whatever is skipped besides: transformers keeps it in float32 (T5's <c>wo</c>, which overflows).</summary>
    public bool StaysPlain { get; init; }

    /// <summary>[outputs, inputs], or [inputs, outputs] where it is transposed.</summary>
    public Parameter Weight { get; }

    /// <summary>[outputs], or null.</summary>
    public Parameter? Bias { get; }

    /// <inheritdoc/>
    public override string Details => IsTransposed ? $"nf={Outputs}, nx={Inputs}" : $"in_features={Inputs}, out_features={Outputs}, bias={(Bias is null ? "False" : "True")}";

    /// <summary>Runs the layer with whatever adapters act on it.</summary>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="residual">[rows, outputs], added to the result in the same product; null for none.</param>
    /// <returns>[rows, outputs].</returns>
    /// <exception cref="PeftException"><c>ShapeMismatch</c>: the input has another width.</exception>
    public Tensor Forward(Tensor x, ForwardContext context, Tensor? residual = null)
    {
        CheckInput(x);
        context.InputObserver?.Invoke(this, x);
        var plan = Weight.Slot?.Plan(context) ?? SlotPlan.Empty;
        if (!plan.NeedsForward)
        {
            return Product(x, Member(context, plan), context, residual);
        }

        var y = Weight.Slot!.Forward(x, context, (input, inner) => Product(input, Member(inner, SlotPlan.Empty), inner, residual: null));
        return residual is null ? y : ResidualSum.Forward(residual, y, context);
    }

    /// <inheritdoc/>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var y = IAdaptable.Multiply(x, IsTransposed ? weight.t() : weight);
        return bias is null ? y : y + bias;
    }

    /// <inheritdoc/>
    public Tensor FromMatrix(Tensor matrix) => IsTransposed ? matrix.t() : matrix;

    /// <inheritdoc/>
    public Tensor ToMatrix(Tensor weight) => IsTransposed ? weight.t() : weight;

    /// <summary>What the layer contributes to a product shared with others.</summary>
    internal LinearMember Member(ForwardContext context, SlotPlan plan) => new(Weight.Effective(context), Bias?.Effective(context), plan.LowRank, IsTransposed, plan.Weight);

    /// <summary>A wrong width would end in a native error without the layer's name.</summary>
    internal void CheckInput(Tensor x)
    {
        if (x.size(-1) != Inputs)
        {
            throw new PeftException("ShapeMismatch", $"'{Path}' takes inputs of width {Inputs}, but was given [{string.Join(", ", x.shape)}].") { Target = Path };
        }
    }

    private Tensor Product(Tensor x, LinearMember member, ForwardContext context, Tensor? residual) =>
        LinearProduct.Run(x, member.Weight.Packed is null ? ToMatrix(member.Weight.Data) : null, member.Bias?.Data, [member], context, residual);
}
