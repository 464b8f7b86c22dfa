namespace Peft.Diffusion.Schedulers;

/// <summary>Noise levels of a run that follow a curve of their own, whatever timesteps they fall on (<c>use_karras_sigmas</c> and the like).</summary>
internal static class SigmaSpacing
{
    private const double KarrasRho = 7;
    private const double BetaShape = 0.6;

    /// <summary>The levels from the noisiest down, or null where a configuration asks for none of the curves.</summary>
    /// <param name="config">The configuration; its <c>sigma_min</c> and <c>sigma_max</c> stand before the range's ends.</param>
    /// <param name="highest">The noisiest level.</param>
    /// <param name="lowest">The cleanest level.</param>
    /// <param name="steps">Number of levels.</param>
    /// <exception cref="PeftException"><c>SchedulerConfigInvalid</c>: it asks for several.</exception>
    public static SigmaCurve? Of(SchedulerConfig config, double highest, double lowest, int steps)
    {
        var kinds = new[] { "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas" }.Where(key => config.Flag(key, false)).ToArray();
        if (kinds.Length > 1)
        {
            throw SchedulerConfig.Invalid(kinds[1], $"off where '{kinds[0]}' is on");
        }

        var (max, min) = (config.OptionalNumber("sigma_max") ?? highest, config.OptionalNumber("sigma_min") ?? lowest);
        var shares = TimestepSpacing.Line(0, 1, steps);
        return kinds.FirstOrDefault() switch
        {
            "use_karras_sigmas" => new(true, [.. shares.Select(share => Karras(max, min, share))]),
            "use_exponential_sigmas" => new(false, [.. shares.Select(share => Math.Exp(Math.Log(max) + (share * (Math.Log(min) - Math.Log(max)))))]),
            "use_beta_sigmas" => new(false, [.. shares.Select(share => min + (BetaQuantile(1 - share) * (max - min)))]),
            _ => null,
        };
    }

    // Equation 5 of Karras et al. 2022.
    private static double Karras(double max, double min, double share)
    {
        var (from, to) = (Math.Pow(max, 1 / KarrasRho), Math.Pow(min, 1 / KarrasRho));
        return Math.Pow(from + (share * (to - from)), KarrasRho);
    }

    // Quantiles of the symmetric beta distribution of shape 0.6 (Lee et al. 2024). Its distribution function rises steeply at both ends, so it is integrated
    // over u = x^0.6, in which it is smooth, and inverted by halving.
    private static double BetaQuantile(double probability)
    {
        if (probability > 0.5)
        {
            return 1 - BetaQuantile(1 - probability);
        }

        var whole = 2 * Mass(0.5);
        var (low, high) = (0.0, 0.5);
        for (var i = 0; i < 60; i++)
        {
            var middle = (low + high) / 2;
            (low, high) = Mass(middle) < probability * whole ? (middle, high) : (low, middle);
        }

        return (low + high) / 2;
    }

    // The integral of x^(a-1) · (1-x)^(a-1) from 0, by Simpson's rule.
    private static double Mass(double x)
    {
        const int Intervals = 256;
        var end = Math.Pow(x, BetaShape);
        var sum = 0.0;
        for (var i = 0; i <= Intervals; i++)
        {
            var weight = i is 0 or Intervals ? 1 : i % 2 == 1 ? 4 : 2;
            sum += weight * Math.Pow(1 - Math.Pow(end * i / Intervals, 1 / BetaShape), BetaShape - 1);
        }

        return sum * end / Intervals / 3 / BetaShape;
    }
}

/// <summary>Levels on a curve.</summary>
/// <param name="IsKarras">Whether it is Karras', whose timesteps some solvers round.</param>
/// <param name="Sigmas">The levels from the noisiest down.</param>
internal sealed record SigmaCurve(bool IsKarras, double[] Sigmas);
