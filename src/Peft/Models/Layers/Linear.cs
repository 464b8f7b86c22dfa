using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A linear layer, y = x Wᵀ + b, whose weight can carry adapters.</summary>
public sealed class Linear : Module, IAdaptable
{
    /// <summary>Makes a layer without weights.</summary>
    /// <param name="inputs">Width of the input.</param>
    /// <param name="outputs">Width of the output.</param>
    /// <param name="hasBias">Whether it adds a bias.</param>
    public Linear(long inputs, long outputs, bool hasBias = false)
    {
        Inputs = inputs;
        Outputs = outputs;
        Weight = AddParameter("weight", [outputs, inputs]);
        Bias = hasBias ? AddParameter("bias", [outputs]) : null;
    }

    /// <summary>Width of the input.</summary>
    public long Inputs { get; }

    /// <summary>Width of the output.</summary>
    public long Outputs { get; }

    /// <summary>[outputs, inputs].</summary>
    public Parameter Weight { get; }

    /// <summary>[outputs], or null.</summary>
    public Parameter? Bias { get; }

    /// <inheritdoc/>
    public override string Details => $"in_features={Inputs}, out_features={Outputs}, bias={(Bias is null ? "False" : "True")}";

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
        var y = x.matmul(weight.t());
        return bias is null ? y : y + bias;
    }

    /// <summary>What the layer contributes to a product shared with others.</summary>
    internal LinearMember Member(ForwardContext context, SlotPlan plan) => new(Weight.Effective(context), Bias?.Effective(context), plan.LowRank);

    /// <summary>A wrong width would end in a native error without the layer's name.</summary>
    internal void CheckInput(Tensor x)
    {
        if (x.size(-1) != Inputs)
        {
            throw new PeftException("ShapeMismatch", $"'{Path}' takes inputs of width {Inputs}, but was given [{string.Join(", ", x.shape)}].") { Target = Path };
        }
    }

    private static Tensor Product(Tensor x, LinearMember member, ForwardContext context, Tensor? residual) =>
        LinearProduct.Run(x, member.Weight.Data, member.Bias?.Data, [member], context, residual);
}
