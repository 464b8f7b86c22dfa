using static TorchSharp.torch;

namespace TorchSharp;

/// <summary>
/// Operators on bfloat16 on the CPU that libtorch 1.13 rounds on the way: it adds up products in bfloat16 (512 ones make 256) where oneDNN doesn't
/// serve, which is all of them on processors without AVX-512 and small ones on others, and forms SiLU in two rounded steps. Where a trial shows
/// that, they are computed in float32 and rounded once, as newer ones do.
/// </summary>
internal static class RoundedOnce
{
    /// <summary>Products of more multiplications than these go to oneDNN where the processor has what it needs.</summary>
    private const long SmallProduct = 16 * 16 * 16;

    private static readonly Lazy<bool> s_roundsSmall = new(static () => RoundsSums(SmallProduct / 8));
    private static readonly Lazy<bool> s_roundsLarge = new(static () => RoundsSums(SmallProduct / 2));
    private static readonly Lazy<bool> s_roundsSilu = new(RoundsSilu);

    /// <summary>The product by an operator of two tensors.</summary>
    public static Tensor Product(Operator product, Tensor left, Tensor right)
    {
        if (!IsRounded(left, right))
        {
            return product.Tensor(left, right);
        }

        using var rows = left.to(ScalarType.Float32);
        using var columns = right.to(ScalarType.Float32);
        using var exact = product.Tensor(rows, columns);
        return exact.to(ScalarType.BFloat16);
    }

    /// <summary><c>addmm</c>: a sum and a product.</summary>
    public static Tensor Sum(Tensor input, Tensor left, Tensor right, float beta, float alpha)
    {
        if (!IsRounded(left, right))
        {
            return Aten.addmm.Tensor(input, left, right, beta, alpha);
        }

        using var rows = left.to(ScalarType.Float32);
        using var columns = right.to(ScalarType.Float32);
        using var addend = input.to(ScalarType.Float32);
        using var exact = Aten.addmm.Tensor(addend, rows, columns, beta, alpha);
        return exact.to(ScalarType.BFloat16);
    }

    /// <summary><c>addmm_</c>: as <see cref="Sum"/>, into <paramref name="input"/>.</summary>
    public static Tensor SumInPlace(Tensor input, Tensor left, Tensor right, float beta, float alpha)
    {
        if (!IsRounded(left, right))
        {
            return Aten.addmm_.InPlace(input, left, right, beta, alpha);
        }

        using var exact = Sum(input, left, right, beta, alpha);
        return input.copy_(exact);
    }

    /// <summary>x σ(x).</summary>
    public static Tensor Silu(Tensor x)
    {
        if (x.dtype != ScalarType.BFloat16 || x.device_type != DeviceType.CPU || !s_roundsSilu.Value)
        {
            return Aten.silu.Tensor(x);
        }

        using var wide = x.to(ScalarType.Float32);
        using var exact = Aten.silu.Tensor(wide);
        return exact.to(ScalarType.BFloat16);
    }

    private static bool IsRounded(Tensor left, Tensor right) =>
        left.dtype == ScalarType.BFloat16 && left.Dimensions > 1 && right.Dimensions > 1 && left.device_type == DeviceType.CPU
        && (left.numel() * right.size(-1) > SmallProduct ? s_roundsLarge : s_roundsSmall).Value;

    // Beyond 256, bfloat16 doesn't hold every whole number.
    private static bool RoundsSums(long inner)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return Aten.mm.Tensor(ones([2, inner], ScalarType.BFloat16), ones([inner, 2], ScalarType.BFloat16)).max().ToSingle() < inner;
    }

    private static bool RoundsSilu()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var x = linspace(-4, 4, 256, ScalarType.Float32).to(ScalarType.BFloat16);
        return !Aten.silu.Tensor(x).eq(Aten.silu.Tensor(x.to(ScalarType.Float32)).to(ScalarType.BFloat16)).all().ToBoolean();
    }
}
