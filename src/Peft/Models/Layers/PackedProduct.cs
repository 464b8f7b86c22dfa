using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>The product with packed weights: unpacked one below the other for the product alone, in both directions, or by the form's own arithmetic.</summary>
internal static class PackedProduct
{
    // Up to here reading the packed form once for each row takes less time than unpacking it, by half at least.
    private const long FewRows = 8;

    /// <summary>
    /// y = x Wᵀ + b + residual, formed in the weights' compute type. In training the forward pass is that of the unpacked weight whatever the form, as
    /// bitsandbytes has it on the CPU: what goes back is its gradient exactly then.
    /// </summary>
    public static Tensor Forward(Tensor x, Tensor? bias, PackedWeight[] weights, Tensor? residual, ForwardContext context)
    {
        if (context.Tape is null && x.size(0) <= (RunsByRow(x, weights) ? FewRows : 1) && Rows(x, weights) is { } rows)
        {
            rows = bias is null ? rows : rows.add_(bias);
            return residual is null ? rows : rows.add_(residual);
        }

        var type = Type(weights[0].ComputeType ?? x.dtype, x.device_type);
        var input = LinearProduct.Cast(x, type);
        bias = bias is null ? null : LinearProduct.Cast(bias, type);
        var y = LinearProduct.Cast(Product(input, bias, weights, context.IsTraining), x.dtype);
        return residual is null ? y : y.add_(residual);
    }

    /// <summary>The gradient of the input, formed in the weights' compute type.</summary>
    public static Tensor InputGradient(Tensor g, PackedWeight[] weights)
    {
        var form = weights[0];
        var type = form.HasProduct ? ScalarType.Float32 : Type(form.ComputeType ?? g.dtype, g.device_type);
        using var weight = PackedWeight.Lease(weights, form.HasProduct ? g.dtype : type);
        return LinearProduct.Cast(LinearProduct.Cast(g, type).mm(LinearProduct.Cast(weight.Tensor, type)), g.dtype);
    }

    /// <summary>Whether several rows may be multiplied one by one: each is then what it is among others, in the type that is asked for.</summary>
    private static bool RunsByRow(Tensor x, PackedWeight[] weights) =>
        Array.TrueForAll(weights, weight => !weight.HasProduct && (weight.ComputeType ?? x.dtype) == x.dtype);

    /// <summary>The product of each row, read straight from the packed weights; null where a form, a type or a size has no kernel for it.</summary>
    private static Tensor? Rows(Tensor x, PackedWeight[] weights)
    {
        var y = empty([x.size(0), weights.Sum(static weight => weight.Shape[0])], x.dtype, x.device);
        for (long row = 0; row < x.size(0); row++)
        {
            using var scope = NewDisposeScope();
            var (own, sums) = x.size(0) == 1 ? (x, y) : (x.narrow(0, row, 1), y.narrow(0, row, 1));
            long column = 0;
            foreach (var weight in weights)
            {
                if (!weight.RowProduct(own, weights.Length == 1 ? sums : sums.narrow(1, column, weight.Shape[0])))
                {
                    return null;
                }

                column += weight.Shape[0];
            }
        }

        return y;
    }

    /// <summary>Engines before PyTorch 2 multiply no float16 on the CPU.</summary>
    private static ScalarType Type(ScalarType asked, DeviceType device) => asked == ScalarType.Float16 && device == DeviceType.CPU ? ScalarType.Float32 : asked;

    private static Tensor Product(Tensor x, Tensor? bias, PackedWeight[] weights, bool isTraining)
    {
        if (!isTraining && weights is [{ HasProduct: true } own])
        {
            return own.Product(x, bias);
        }

        using var weight = PackedWeight.Lease(weights, x.dtype);
        return LinearProduct.Product(x, weight.Tensor, bias, residual: null);
    }
}
