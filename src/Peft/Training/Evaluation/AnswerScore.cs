using System.Globalization;

namespace Peft.Training.Evaluation;

/// <summary>How many of several answers hold, and between which bounds the share of all such answers lies.</summary>
/// <param name="Hits">Those that hold.</param>
/// <param name="Count">All of them.</param>
public sealed record AnswerScore(int Hits, int Count)
{
    /// <summary>The quantile of the normal distribution that leaves 2.5 % above it: bounds hold with 95 %.</summary>
    private const double Quantile = 1.959963984540054;

    /// <summary>The share that holds; NaN where there are none.</summary>
    public double Share => (double)Hits / Count;

    /// <summary>The lower bound, 95 % (Wilson's score interval, 1927).</summary>
    public double Low => Bound(-1);

    /// <summary>The upper bound, 95 %.</summary>
    public double High => Bound(1);

    /// <inheritdoc/>
    public override string ToString() => Count == 0 ? "none" : string.Create(
        CultureInfo.InvariantCulture, $"{Hits} of {Count} ({100 * Share:0.#} %, {100 * Low:0.#} to {100 * High:0.#})");

    private double Bound(int side)
    {
        var (z, n, p) = (Quantile, (double)Count, Share);
        var half = z * Math.Sqrt((p * (1 - p) / n) + (z * z / (4 * n * n)));
        return Math.Clamp((p + (z * z / (2 * n)) + (side * half)) / (1 + (z * z / n)), 0, 1);
    }
}
