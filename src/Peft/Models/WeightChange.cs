using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// A change of a linear layer's weight that the layer forms its product with: one product in place of the layer's own and the change's, and one gradient of the
/// whole weight, from which those of the change's parameters follow without another pass over the tokens. For changes that are no product of narrow factors.
/// </summary>
public abstract class WeightChange
{
    /// <summary>The trained parameters that it reads.</summary>
    public abstract IReadOnlyList<Parameter> Trained { get; }

    /// <summary>The weight with the change, [outputs, inputs]. Autograd runs through it.</summary>
    /// <param name="context">The forward pass.</param>
    public abstract Tensor Form(ForwardContext context);
}
