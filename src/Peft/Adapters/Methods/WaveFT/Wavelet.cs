using System.Globalization;
using System.Numerics;

namespace Peft.Adapters.Methods.WaveFT;

/// <summary>
/// Filters of Daubechies' orthogonal wavelets (1988, 1993). Those of least phase (<c>db</c>) and the most symmetric ones (<c>sym</c>) are the product of
/// (1 + z)ᴺ and factors of her polynomial, computed; coiflets, whose scaling functions have vanishing moments too, solve equations that have no such form.
/// </summary>
internal static class Wavelet
{
    private const int Most = 10;
    private const int Sweeps = 200;

    /// <summary>For each symlet, by its order, which factors of the polynomial take the root outside the circle: a bit each, those of the smallest y first.</summary>
    private static readonly int[] OutsideOfSymlets = [0, 0, 0, 0, 2, 1, 5, 1, 10, 6, 21];

    /// <summary>
    /// The first three coiflets: solutions, by Newton's method to 40 digits, of the equations of orthonormality, of 2 K vanishing moments of the wavelet, and of
    /// 2 K - 1 of its scaling function about 2 K.
    /// </summary>
    private static readonly double[][] Coiflets =
    [
        [-0.072732619512526448, 0.33789766245748177, 0.85257202021160042, 0.38486484686485775, -0.072732619512526448, -0.015655728135791993],
        [
            0.01638733646320364, -0.041464936786871774, -0.067372554723725594, 0.38611006682276285, 0.8127236354494135, 0.41700518442323905,
            -0.076488599078280754, -0.059434418646431087, 0.023680171946847769, 0.0056114348193688342, -0.0018232088709110321, -0.000720549445520347,
        ],
        [
            -0.0037935128643808017, 0.0077825964256727458, 0.023452696142077166, -0.065771911281469367, -0.061123390002972541, 0.4051769024091182,
            0.79377722262608717, 0.42848347637736998, -0.071799821619154834, -0.082301927106299818, 0.034555027573297733, 0.015880544863669451,
            -0.0090079761367306239, -0.002574517688136797, 0.0011175187708306302, 0.00046621695982040287, -7.0983302506379006e-5, -3.4599773197272774e-5,
        ],
    ];

    /// <summary>The low-pass filter with which a transform is inverted.</summary>
    /// <param name="name"><c>db1</c> to <c>db10</c>, <c>sym2</c> to <c>sym10</c>, <c>coif1</c> to <c>coif3</c>; their case doesn't matter.</param>
    /// <exception cref="NotSupportedByPeftException"><c>WaveletNotSupported</c>.</exception>
    public static double[] LowPass(string name)
    {
        var digits = name.AsSpan().TrimStart("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        var order = int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : 0;
        return (name[..^digits.Length].ToUpperInvariant(), order) switch
        {
            ("DB", >= 1 and <= Most) => Product(order, 0),
            ("SYM", >= 2 and <= Most) => Product(order, OutsideOfSymlets[order]),
            ("COIF", >= 1) when order <= Coiflets.Length => Coiflets[order - 1],
            _ => throw new NotSupportedByPeftException("WaveletNotSupported", $"The wavelet '{name}' is not supported; supported are db1 to db{Most}, sym2 to sym{Most} and coif1 to coif{Coiflets.Length}.")
            {
                Target = "wavelet_family",
                RecommendedAction = "Give one of Daubechies' wavelets, such as db1 or sym4. PEFT 0.21 takes coif4 and coif5 as well, but its tables of them are no orthogonal wavelets.",
            },
        };
    }

    /// <summary>The filter whose factors have the roots inside the circle, but for those whose bit is set.</summary>
    private static double[] Product(int order, int outside)
    {
        Complex[] filter = [Complex.One];
        for (var i = 0; i < order; i++)
        {
            filter = Times(filter, -1);
        }

        foreach (var (i, y) in Roots(order).Where(static y => y.Imaginary > -1e-9).OrderBy(static y => Complex.Abs(y)).Index())
        {
            // z + 1 / z = 2 - 4 y; a pair of conjugates is taken together, so that the filter is real.
            var middle = 1 - (2 * y);
            var z = middle + Complex.Sqrt((middle * middle) - 1);
            z = Complex.Abs(z) < 1 == ((outside >> i & 1) == 0) ? z : 1 / z;
            filter = Times(filter, z);
            filter = y.Imaginary > 1e-9 ? Times(filter, Complex.Conjugate(z)) : filter;
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
