using System.Globalization;
using System.Numerics;

namespace Peft.Adapters.Methods.WaveFT;

/// <summary>Filters of Daubechies' wavelets (1988), computed: the product of (1 + z)ᴺ and the factors of least phase of her polynomial.</summary>
internal static class Wavelet
{
    private const int Most = 10;
    private const int Sweeps = 200;

    /// <summary>The low-pass filter with which a transform is inverted.</summary>
    /// <param name="name"><c>db1</c> to <c>db10</c>.</param>
    /// <exception cref="NotSupportedByPeftException"><c>WaveletNotSupported</c>.</exception>
    public static double[] LowPass(string name)
    {
        if (!name.StartsWith("db", StringComparison.OrdinalIgnoreCase) || !int.TryParse(name.AsSpan(2), NumberStyles.None, CultureInfo.InvariantCulture, out var order) || order is < 1 or > Most)
        {
            throw new NotSupportedByPeftException("WaveletNotSupported", $"The wavelet '{name}' is not supported; supported are db1 to db{Most}.")
            {
                Target = "wavelet_family",
                RecommendedAction = "Give one of Daubechies' wavelets, such as db1.",
            };
        }

        Complex[] filter = [Complex.One];
        for (var i = 0; i < order; i++)
        {
            filter = Times(filter, -1);
        }

        foreach (var y in Roots(order))
        {
            // z + 1 / z = 2 - 4 y; the root inside the circle has least phase.
            var middle = 1 - (2 * y);
            var z = middle + Complex.Sqrt((middle * middle) - 1);
            filter = Times(filter, Complex.Abs(z) < 1 ? z : 1 / z);
        }

        var sum = filter.Sum(static value => value.Real);
        return [.. filter.Select(value => value.Real * Math.Sqrt(2) / sum)];
    }

    /// <summary>The high-pass filter that belongs to a low-pass one.</summary>
    public static double[] HighPass(double[] lowPass) => [.. lowPass.Select((_, i) => (i % 2 == 0 ? 1 : -1) * lowPass[^(i + 1)])];

    /// <summary>A polynomial, the highest power first, times (z - root).</summary>
    private static Complex[] Times(Complex[] polynomial, Complex root) =>
        [.. Enumerable.Range(0, polynomial.Length + 1).Select(i => (i < polynomial.Length ? polynomial[i] : 0) - (i > 0 ? root * polynomial[i - 1] : 0))];

    /// <summary>Roots of Σ C(N - 1 + k, k) yᵏ for k below N, all at once (Durand and Kerner).</summary>
    private static Complex[] Roots(int order)
    {
        var coefficients = new double[order];
        coefficients[0] = 1;
        for (var k = 1; k < order; k++)
        {
            coefficients[k] = coefficients[k - 1] * (order - 1 + k) / k;
        }

        Complex[] roots = [.. Enumerable.Range(0, order - 1).Select(static i => Complex.Pow(new Complex(0.4, 0.9), i))];
        for (var sweep = 0; sweep < Sweeps; sweep++)
        {
            for (var i = 0; i < roots.Length; i++)
            {
                var (value, others) = (Complex.Zero, new Complex(coefficients[^1], 0));
                for (var k = order - 1; k >= 0; k--)
                {
                    value = (value * roots[i]) + coefficients[k];
                }

                for (var j = 0; j < roots.Length; j++)
                {
                    others *= j == i ? 1 : roots[i] - roots[j];
                }

                roots[i] -= value / others;
            }
        }

        return roots;
    }
}

/// <summary>One axis of a transform of a single level: its first half holds low frequencies, its second half high ones.</summary>
internal sealed class WaveletAxis
{
    private readonly double[] _lowPass;
    private readonly double[] _highPass;
    private readonly long _half;
    private readonly long _offset;

    /// <summary>Describes an axis of a length; it is padded so that what the inverse transform loses at the borders is not missing.</summary>
    public WaveletAxis(long length, double[] lowPass)
    {
        _lowPass = lowPass;
        _highPass = Wavelet.HighPass(lowPass);
        var padded = length + Math.Max(0, lowPass.Length - 2);
        padded += lowPass.Length > 1 ? padded % 2 : 0;
        _offset = (padded - length) / 2;
        _half = lowPass.Length > 1 ? padded / 2 : padded;
    }

    /// <summary>Whether a place of the unpadded axis is among the high frequencies.</summary>
    public bool IsHigh(long place) => place + _offset >= _half;

    /// <summary>Where a coefficient goes, and what share of it; places outside of the axis are lost.</summary>
    /// <param name="place">Of the unpadded axis.</param>
    /// <param name="isHigh">Whether the filter of high frequencies spreads it.</param>
    public IEnumerable<(long Place, double Share)> Spread(long place, bool isHigh)
    {
        var filter = isHigh ? _highPass : _lowPass;
        if (filter.Length == 1)
        {
            return [(place, 1)];
        }

        var index = place + _offset - (IsHigh(place) ? _half : 0);
        return filter.Select((share, k) => ((2 * index) + k - (filter.Length - 2), share));
    }
}
