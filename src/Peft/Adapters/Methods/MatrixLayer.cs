using Peft.Adapters.Slots;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>A layer to whose weight a matrix is added, which the method makes of its parameters.</summary>
internal abstract class MatrixLayer(IAdaptable layer) : LayerAdapter(layer)
{
    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var change = ChangeAt(call.Weight, y.dtype, () => Layer.ToMatrix(BareWeight(call, y.dtype)));
        return y + Layer.Apply(x, Layer.FromMatrix(change), null);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) => Merge(current, bare, 1);

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare, float strength)
    {
        current.Weight.add_(Layer.FromMatrix(ChangeAt(strength, current.Weight.dtype, () => Layer.ToMatrix(bare.Weight))));
        return current;
    }

    /// <summary>The change at a strength, which it grows with unless a method says otherwise.</summary>
    /// <param name="strength">1 is as trained.</param>
    /// <param name="type">The type to compute in.</param>
    /// <param name="bare">Gives the layer's own weight as such a matrix, not to be edited.</param>
    protected virtual Tensor ChangeAt(float strength, ScalarType type, Func<Tensor> bare) => Change(type, bare) is var change && strength == 1f ? change : change * strength;

    /// <summary>The change [out, in · kernel] of the weight.</summary>
    /// <param name="type">The type to compute in.</param>
    /// <param name="bare">Gives the layer's own weight as such a matrix, not to be edited.</param>
    protected abstract Tensor Change(ScalarType type, Func<Tensor> bare);
}
