using static TorchSharp.torch;

namespace Peft.Adapters.Conversion;

/// <summary>
/// Truncated singular value decomposition of changes of weights: of all products of a rank the nearest one (Eckart and Young 1936).
/// What is compared with what is the caller's: an adapter with its base, a model's weights with another's.
/// </summary>
internal static class ChangeDecomposition
{
    /// <summary>The nearest change of low rank.</summary>
    /// <param name="change">[outputs, columns], float32.</param>
    /// <param name="options">How far it goes.</param>
    public static LowRankPart Of(Tensor change, ConversionOptions options)
    {
        var (u, s, vh) = linalg.svd(change.to(ScalarType.Float64), fullMatrices: false);
        return Cut(u.to(ScalarType.Float32), s.to(ScalarType.Float32), vh.to(ScalarType.Float32), options);
    }

    /// <summary>The same of a product. That of the small matrix between two orthogonal ones is that of the whole, so that the whole is never formed.</summary>
    /// <param name="factors">The product.</param>
    /// <param name="options">How far it goes.</param>
    public static LowRankPart Of(ChangeFactors factors, ConversionOptions options)
    {
        if (options.Rank > factors.A.size(0))
        {
            return Of(factors.B.mm(factors.A).mul(factors.Scale), options);
        }

        var (left, upper) = linalg.qr(factors.B);
        var (right, lower) = linalg.qr(factors.A.t());
        var (u, s, vh) = linalg.svd(upper.mm(lower.t()).mul(factors.Scale), fullMatrices: false);
        return Cut(left.mm(u), s, vh.mm(right.t()), options);
    }

    private static LowRankPart Cut(Tensor u, Tensor s, Tensor vh, ConversionOptions options)
    {
        double[] squares = [.. s.to(ScalarType.Float32).to(CPU).data<float>().ToArray().Select(static value => (double)value * value)];
        var energy = squares.Sum();
        var rank = options.Rank is { } given ? Math.Min(given, squares.Length) : RankOf(squares, (options.Energy ?? ConversionOptions.DefaultEnergy) * energy);
        return new LowRankPart(
            vh.narrow(0, 0, rank).contiguous(), u.narrow(1, 0, rank).mul(s.narrow(0, 0, rank)), energy, squares.Skip(rank).Sum());
    }

    /// <summary>The smallest rank whose squares reach a sum; one at least.</summary>
    private static int RankOf(double[] squares, double wanted)
    {
        var sum = 0.0;
        for (var i = 0; i < squares.Length; i++)
        {
            sum += squares[i];
            if (sum >= wanted)
            {
                return i + 1;
            }
        }

        return squares.Length;
    }
}
