using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A norm whose weight and bias take adapters: what is added to them acts as the norm with that in their place.</summary>
public interface INorm
{
    /// <summary>The norm as adapters see it. It is no layer of its module's <see cref="Module.Adaptables"/>: targets name layers that map an input by a matrix.</summary>
    IAdaptable Scale { get; }
}

/// <summary>The weight of a norm, a factor for each channel, with the bias beside it.</summary>
internal sealed class NormWeight(Module norm, Parameter weight, Parameter? bias, Func<Tensor, Tensor, Tensor?, Tensor> apply) : IAdaptable
{
    /// <inheritdoc/>
    public Module Module => norm;

    /// <inheritdoc/>
    public Parameter Weight => weight;

    /// <inheritdoc/>
    public Parameter? Bias => bias;

    /// <inheritdoc/>
    public long Inputs => weight.Count;

    /// <inheritdoc/>
    public long Outputs => weight.Count;

    /// <inheritdoc/>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias) => apply(x, weight, bias);
}
