using Peft.Adapters.Slots;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>A layer whose weight is multiplied by an orthogonal matrix R over its inputs: y = (x R) Wᵀ. A linear layer turns its input instead of its weight.</summary>
internal abstract class RotationLayer(IAdaptable layer) : LayerAdapter(layer)
{
    /// <summary>Whether the input is turned; the map of any other layer has no single input that could be.</summary>
    public override bool ChangesInput => Layer is Linear;

    /// <inheritdoc/>
    public override Tensor Before(Tensor x, SlotCall call)
    {
        var turned = Rotate(x.reshape(-1, x.size(-1)), back: false, call).view(x.shape);
        return call.Weight == 1f ? turned : x + ((turned - x) * call.Weight);
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (ChangesInput)
        {
            return y;
        }

        var bare = Layer.ToMatrix(BareWeight(call, y.dtype));
        return y + (Layer.Apply(x, Layer.FromMatrix(Rotate(bare, back: true, call) - bare), null) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) =>
        current with { Weight = Layer.FromMatrix(Rotate(Layer.ToMatrix(current.Weight), back: true, null)) };

    /// <summary>Turns rows.</summary>
    /// <param name="rows">[rows, inputs · kernel].</param>
    /// <param name="back">Whether by Rᵀ, as the rows of the weight, instead of R.</param>
    /// <param name="call">The pass; null in a merge.</param>
    protected abstract Tensor Rotate(Tensor rows, bool back, SlotCall? call);
}

/// <summary>Rotations that turn blocks of neighbouring inputs, each for itself.</summary>
internal static class BlockRotation
{
    /// <summary>Cayley's rotation (I - Q)(I + Q)⁻¹ of skew-symmetric matrices.</summary>
    /// <param name="skew">[blocks, size, size].</param>
    public static Tensor Cayley(Tensor skew)
    {
        var identity = eye(skew.size(-1), dtype: skew.dtype, device: skew.device);
        return linalg.solve(identity + skew, identity - skew);
    }

    /// <summary>Skew-symmetric matrices of what stands above their diagonals, row by row.</summary>
    /// <param name="upper">[blocks, size · (size - 1) / 2].</param>
    /// <param name="size">Rows of a matrix.</param>
    public static Tensor Skew(Tensor upper, long size)
    {
        var places = triu_indices(size, size, 1, device: upper.device);
        var flat = places[0].mul(size).add(places[1]);
        var half = zeros([upper.size(0), size * size], upper.dtype, upper.device).index_copy(1, flat, upper).view(-1, size, size);
        return half - half.transpose(1, 2);
    }

    /// <summary>I + 2Q + 2Q² + … + Qⁿ, the start of the series of Cayley's rotation (I + Q)(I - Q)⁻¹.</summary>
    /// <param name="skew">[blocks, size, size].</param>
    /// <param name="terms">PEFT's count of terms; three are taken as four.</param>
    public static Tensor Neumann(Tensor skew, int terms)
    {
        var sum = eye(skew.size(-1), dtype: skew.dtype, device: skew.device).expand_as(skew);
        var last = terms switch
        {
            1 => 0,
            2 => 1,
            _ => Math.Max(3, terms - 1),
        };
        var power = skew;
        for (var i = 1; i <= last; i++)
        {
            power = i == 1 ? skew : power.bmm(skew);
            sum = sum + (i == last && i > 1 ? power : power * 2);
        }

        return sum;
    }

    /// <summary>Turns rows by blocks.</summary>
    /// <param name="rows">[rows, blocks · size].</param>
    /// <param name="blocks">[blocks, size, size], or [1, size, size] for all of them.</param>
    /// <param name="back">Whether by the transposed blocks.</param>
    public static Tensor Rotate(Tensor rows, Tensor blocks, bool back)
    {
        var (count, size) = (blocks.size(0), blocks.size(-1));
        var turning = (back ? blocks.transpose(1, 2) : blocks).to(rows.dtype);
        return count == 1
            ? rows.reshape(-1, size).mm(turning[0]).view(rows.shape)
            : rows.reshape(-1, count, size).transpose(0, 1).bmm(turning).transpose(0, 1).reshape(rows.shape);
    }

    /// <summary>Puts the identity in the place of some blocks, as multiplicative dropout does; a single block always stays.</summary>
    /// <param name="blocks">[blocks, size, size].</param>
    /// <param name="probability">The share of the blocks.</param>
    /// <param name="generator">Source of random numbers.</param>
    public static Tensor Dropped(Tensor blocks, double probability, Generator? generator)
    {
        var (count, size) = (blocks.size(0), blocks.size(-1));
        if (count == 1)
        {
            return blocks;
        }

        var isDropped = randperm(count, ScalarType.Int64, generator: generator).to(blocks.device).lt((long)(probability * count)).view(-1, 1, 1);
        return where(isDropped, eye(size, dtype: blocks.dtype, device: blocks.device), blocks);
    }
}
