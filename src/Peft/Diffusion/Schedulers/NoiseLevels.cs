namespace Peft.Diffusion.Schedulers;

/// <summary>
/// The noise levels of a training (<c>beta_schedule</c>): at timestep t a sample is √ᾱ · original + √(1 - ᾱ) · noise. Kept in float32, as the models were trained with it.
/// </summary>
public sealed class NoiseLevels
{
    private readonly float[] _betas;
    private readonly float[] _alphasCumulative;

    /// <summary>Reads the betas of a configuration.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="defaults">What stands where it says nothing.</param>
    /// <param name="keepsLastAboveZero">Makes the last ᾱ of a schedule that ends in pure noise 2⁻²⁴, for solvers that divide by it.</param>
    /// <exception cref="NotSupportedByPeftException"><c>SchedulerNotSupported</c>: nobody knows the schedule.</exception>
    /// <exception cref="PeftException"><c>SchedulerConfigInvalid</c>.</exception>
    public NoiseLevels(SchedulerConfig config, BetaDefaults? defaults = null, bool keepsLastAboveZero = false)
    {
        ArgumentNullException.ThrowIfNull(config);
        _betas = Betas(config, defaults ?? new BetaDefaults());
        var rescales = config.Flag("rescale_betas_zero_snr", false);
        if (rescales)
        {
            _betas = WithPureNoiseAtTheEnd(_betas);
        }

        _alphasCumulative = Cumulative(_betas);
        if (rescales && keepsLastAboveZero)
        {
            _alphasCumulative[^1] = MathF.ScaleB(1, -24);
        }
    }

    /// <summary>Number of timesteps.</summary>
    public int Count => _betas.Length;

    /// <summary>β by timestep.</summary>
    public IReadOnlyList<float> Beta => _betas;

    /// <summary>ᾱ, the product of 1 - β up to a timestep.</summary>
    public IReadOnlyList<float> AlphaCumulative => _alphasCumulative;

    /// <summary>√((1 - ᾱ) / ᾱ): the noise beside one unit of the original.</summary>
    /// <param name="timestep">The timestep.</param>
    public double Sigma(int timestep) => MathF.Sqrt((1 - _alphasCumulative[timestep]) / _alphasCumulative[timestep]);

    /// <summary>The same between timesteps, in a straight line.</summary>
    /// <param name="timestep">The timestep.</param>
    public double Sigma(double timestep)
    {
        var below = (int)Math.Clamp(Math.Floor(timestep), 0, Count - 1);
        var above = Math.Min(below + 1, Count - 1);
        var share = Math.Clamp(timestep - below, 0, 1);
        return Sigma(below) + (share == 0 ? 0 : share * (Sigma(above) - Sigma(below)));
    }

    /// <summary>The timestep at which the noise is such, in a straight line over its logarithm.</summary>
    /// <param name="sigma">The noise.</param>
    public double TimestepOf(double sigma)
    {
        var wanted = Math.Log(Math.Max(sigma, 1e-10));
        var (low, high) = (0, Count - 1);
        if (Count == 1)
        {
            return 0;
        }

        while (high - low > 1)
        {
            var middle = (low + high) / 2;
            (low, high) = Math.Log(Sigma(middle)) <= wanted ? (middle, high) : (low, middle);
        }

        var (below, above) = (Math.Log(Sigma(low)), Math.Log(Sigma(low + 1)));
        return low + Math.Clamp((below - wanted) / (below - above), 0, 1);
    }

    /// <summary>Betas moved so that the last timestep is pure noise (Lin et al. 2024, algorithm 1).</summary>
    /// <param name="betas">The betas.</param>
    public static float[] WithPureNoiseAtTheEnd(IReadOnlyList<float> betas)
    {
        // Small differences of roots: these in double, all else in float32, as the models were trained with it.
        var roots = Array.ConvertAll(Cumulative(betas), static alpha => Math.Sqrt(alpha));
        var (first, last) = (roots[0], roots[^1]);
        var scale = (float)(first / (first - last));
        var squares = Array.ConvertAll(roots, root => (float)(root - last) * scale * ((float)(root - last) * scale));
        var moved = new float[squares.Length];
        for (var i = 0; i < moved.Length; i++)
        {
            moved[i] = 1 - (i == 0 ? squares[0] : squares[i] / squares[i - 1]);
        }

        return moved;
    }

    private static float[] Cumulative(IReadOnlyList<float> betas)
    {
        var product = 1.0;
        return [.. betas.Select(beta => (float)(product *= 1 - beta))];
    }

    private static float[] Betas(SchedulerConfig config, BetaDefaults defaults)
    {
        if (config.Numbers("trained_betas") is { Count: > 0 } trained)
        {
            return [.. trained.Select(static beta => (float)beta)];
        }

        var count = config.TrainTimesteps;
        var (start, end) = (config.Number("beta_start", defaults.Start), config.Number("beta_end", defaults.End));
        return config.Word("beta_schedule", defaults.Schedule) switch
        {
            "linear" => Line(start, end, count),
            "scaled_linear" => Array.ConvertAll(Line(Math.Sqrt(start), Math.Sqrt(end), count), static root => root * root),
            "sigmoid" => Array.ConvertAll(Line(-6, 6, count), x => (float)((1 / (1 + Math.Exp(-x)) * (end - start)) + start)),
            "squaredcos_cap_v2" => FromCumulative(count, static t => Math.Pow(Math.Cos((t + 0.008) / 1.008 * Math.PI / 2), 2)),
            "exp" => FromCumulative(count, static t => Math.Exp(-12 * t)),
            "laplace" => FromCumulative(count, Laplace),
            var other => throw SchedulerConfig.NotSupported("beta_schedule", other!),
        };
    }

    // As libtorch's linspace rounds it, from both ends.
    private static float[] Line(double start, double end, int count)
    {
        var (first, last) = ((float)start, (float)end);
        var step = (last - first) / Math.Max(1, count - 1);
        return [.. Enumerable.Range(0, count).Select(i => i < count / 2 ? (float)(first + ((double)step * i)) : (float)(last - ((double)step * (count - 1 - i))))];
    }

    // Discretises a function of the time from 0 to 1 that gives ᾱ; no beta is above 0.999.
    private static float[] FromCumulative(int count, Func<double, double> alpha) =>
        [.. Enumerable.Range(0, count).Select(i => (float)Math.Min(1 - (alpha((i + 1.0) / count) / alpha((double)i / count)), 0.999))];

    private static double Laplace(double t)
    {
        var logarithm = -0.5 * Math.CopySign(1, 0.5 - t) * Math.Log(1 - (2 * Math.Abs(0.5 - t)) + 1e-6);
        var ratio = Math.Exp(logarithm);
        return Math.Sqrt(ratio / (1 + ratio));
    }
}

/// <summary>Betas where a configuration says nothing.</summary>
/// <param name="Start">The first.</param>
/// <param name="End">The last.</param>
/// <param name="Schedule">How they rise.</param>
public sealed record BetaDefaults(double Start = 0.0001, double End = 0.02, string Schedule = "linear");
