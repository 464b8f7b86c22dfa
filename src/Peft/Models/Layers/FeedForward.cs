using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>What a block computes of each position by itself, beside what mixes positions: a dense MLP, or experts that a router chooses.</summary>
/// <param name="className">transformers' class name.</param>
internal abstract class FeedForward(string className) : Module(className)
{
    /// <summary>Runs it.</summary>
    /// <param name="x">[rows · length, width], normed.</param>
    /// <param name="residual">Of the same shape: what the result is added to; null for nothing.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>The sum, or the result alone, and then what is given beside it: a router's scores, [rows · length, experts].</returns>
    public abstract IReadOnlyList<Tensor> Forward(Tensor x, Tensor? residual, ForwardContext context);
}
