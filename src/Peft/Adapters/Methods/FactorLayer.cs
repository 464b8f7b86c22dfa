using Peft.Adapters.Conversion;
using Peft.Adapters.Slots;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>A layer whose change is a product of two factors that the method computes of its parameters: y += scale · B (A dropout(x)).</summary>
/// <param name="layer">The layer.</param>
/// <param name="scale">Multiplies the change.</param>
/// <param name="dropout">Probability with which an input element is dropped in training.</param>
internal abstract class FactorLayer(IAdaptable layer, double scale, double dropout) : LayerAdapter(layer)
{
    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = call.Context.IsTraining && dropout > 0 && x.is_floating_point() ? x * RandomTensors.DropoutMask(x, dropout, call.Context.Generator) : x;
        var (a, b) = Factors(y.dtype);
        return y + (Layer.Project(Layer.Apply(input, Layer.FromMatrix(a), null), b) * (scale * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var (a, b) = Factors(current.Weight.dtype);
        current.Weight.add_(Layer.FromMatrix(b.mm(a)), alpha: scale);
        return current;
    }

    /// <inheritdoc/>
    internal override ChangeFactors ExactFactors()
    {
        var (a, b) = Factors(ScalarType.Float32);
        return new ChangeFactors(a, b, scale);
    }

    /// <summary>The factors A [rank, in · kernel] and B [out, rank].</summary>
    /// <param name="type">The type to give them in.</param>
    protected abstract (Tensor A, Tensor B) Factors(ScalarType type);
}
