using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Root mean square norm without weights, x / sqrt(mean(x²) + ε).</summary>
/// <param name="epsilon">Added to the mean square.</param>
/// <param name="className">transformers' class name.</param>
internal sealed class PlainRmsNorm(double epsilon, string className) : Module(className)
{
    /// <summary>Runs the norm.</summary>
    /// <param name="x">[rows, heads · size].</param>
    /// <param name="size">Width of what is normed by itself.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, long size, ForwardContext context) => ParameterTensor.Run(
        values =>
        {
            var wide = values[0].to(ScalarType.Float32).view(x.size(0), -1, size);
            return (wide * (wide.square().mean([-1], keepdim: true) + epsilon).rsqrt()).view(x.shape).to(x.dtype);
        },
        [x],
        [],
        context);
}
