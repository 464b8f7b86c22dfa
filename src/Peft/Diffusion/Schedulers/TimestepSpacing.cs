namespace Peft.Diffusion.Schedulers;

/// <summary>Which of the trained timesteps a run visits (<c>timestep_spacing</c>; Lin et al. 2024, table 2), from the noisiest down.</summary>
internal static class TimestepSpacing
{
    /// <summary>As many timesteps as there are steps.</summary>
    /// <param name="spacing"><c>linspace</c>, <c>leading</c> or <c>trailing</c>.</param>
    /// <param name="config">Its <c>steps_offset</c>.</param>
    /// <param name="steps">Number of steps.</param>
    /// <param name="beforeLast">Divides the range into one interval more and leaves out its end, where solvers take their last step to a level without noise.</param>
    /// <param name="last">How many of the trained timesteps are used.</param>
    /// <exception cref="NotSupportedByPeftException"><c>SchedulerNotSupported</c>.</exception>
    public static double[] Timesteps(string spacing, SchedulerConfig config, int steps, bool beforeLast = false, int? last = null)
    {
        var trained = config.TrainTimesteps;
        var used = last ?? trained;
        var points = beforeLast ? steps + 1 : steps;
        var offset = config.Integer("steps_offset", 0);
        return spacing switch
        {
            "linspace" => [.. Line(0, used - 1, points).Reverse().Take(steps)],
            "leading" => [.. Enumerable.Range(0, points).Reverse().Take(steps).Select(i => (double)((i * (used / points)) + offset))],
            "trailing" => [.. Enumerable.Range(0, steps).Select(i => used - (i * ((double)trained / steps))).TakeWhile(static left => left > 0.5).Select(static left => Math.Round(left) - 1)],
            _ => throw SchedulerConfig.NotSupported("timestep_spacing", spacing),
        };
    }

    /// <summary>The spacing that a configuration names.</summary>
    public static string Of(SchedulerConfig config, string fallback) => config.Word("timestep_spacing", fallback)!;

    /// <summary>Points at equal distances, both ends included.</summary>
    public static IEnumerable<double> Line(double start, double end, int points) =>
        Enumerable.Range(0, points).Select(i => i == points - 1 && points > 1 ? end : start + (i * ((end - start) / Math.Max(1, points - 1))));
}
