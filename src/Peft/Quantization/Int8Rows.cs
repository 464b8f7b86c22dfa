using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>Eight-bit integers by rows, each scaled by its largest magnitude over 127, with outlier columns apart (Dettmers et al. 2022, LLM.int8).</summary>
public static class Int8Rows
{
    /// <summary>What an integer product is multiplied with beside the two scales: 1 / 127², as bitsandbytes rounds it.</summary>
    public const double ProductScale = 6.200124e-05;

    /// <summary>Quantises rows.</summary>
    /// <param name="rows">[rows, width].</param>
    /// <param name="threshold">A column where a magnitude reaches it is an outlier: its codes are 0 and it doesn't count for a row's scale where it reaches it. 0 for none.</param>
    /// <returns>Codes [rows, width], int8; largest magnitudes [rows], float32; whether each column is an outlier [width], or null where none was asked for.</returns>
    public static (Tensor Codes, Tensor Scales, Tensor? Outliers) Quantize(Tensor rows, double threshold = 0)
    {
        using var scope = NewDisposeScope();
        Tensor? columns = null;
        var values = rows.to(ScalarType.Float32);
        var kept = values;
        if (threshold > 0)
        {
            var outliers = rows.abs().ge(threshold);
            columns = outliers.sum(dim: 0).gt(0);
            kept = values.masked_fill(outliers, 0);
        }

        var scales = kept.abs().amax([1]);

        // Rounded twice, as torch forms a number over a tensor: a value on the edge between two codes falls as the peer's.
        var factors = scales.reciprocal().mul_(127).unsqueeze(1);
        var codes = kept.mul(factors).round_().nan_to_num_(0, 0, 0);
        codes = columns is not null && rows.size(0) > 1 ? codes.masked_fill_(columns.unsqueeze(0), 0) : codes;
        columns?.MoveToOuterDisposeScope();
        return (codes.to(ScalarType.Int8).MoveToOuterDisposeScope(), scales.MoveToOuterDisposeScope(), columns);
    }

    /// <summary>The product of quantised rows: the sums of products of integers, which float32 holds exactly up to widths of a thousand and to one part in ten million beyond.</summary>
    /// <param name="codes">[rows, width], int8.</param>
    /// <param name="weight">[outputs, width], int8.</param>
    /// <returns>[rows, outputs], float32.</returns>
    public static Tensor Multiply(Tensor codes, Tensor weight)
    {
        using var left = codes.to(ScalarType.Float32);
        using var right = weight.to(ScalarType.Float32);
        return left.mm(right.t());
    }

    /// <summary>What the sums of <see cref="Multiply"/> stand for.</summary>
    /// <param name="sums">[rows, outputs]; written over.</param>
    /// <param name="scales">Largest magnitudes of the rows, [rows].</param>
    /// <param name="weightScales">Largest magnitudes of the weight's rows, [outputs].</param>
    public static Tensor Dequantize(Tensor sums, Tensor scales, Tensor weightScales)
    {
        using var products = scales.unsqueeze(1).mul(weightScales.unsqueeze(0));
        return sums.mul_(products).mul_(ProductScale);
    }
}
