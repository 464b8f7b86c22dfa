using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// A solver of high order in λ = log(α / σ), half the logarithm of the signal-to-noise ratio (Lu et al. 2022): x = α · original + σ · noise with α² + σ² = 1.
/// It keeps what the model predicted before.
/// </summary>
public abstract class LogSnrScheduler : NoiseScheduler
{
    // Runs shorter than this end with lower orders, which is more stable.
    private const int FewSteps = 15;

    private protected LogSnrScheduler(SchedulerConfig config)
        : base(config)
    {
        Levels = new NoiseLevels(config, keepsLastAboveZero: true);
        Order = config.Integer("solver_order", 2);
        if (Order is < 1 or > 3)
        {
            throw SchedulerConfig.NotSupported("solver_order", Order.ToString(System.Globalization.CultureInfo.InvariantCulture));
        }

        config.Refuse("use_flow_sigmas");
        Outputs = new TensorHistory(Order);
    }

    /// <summary>The noise levels of the training.</summary>
    public NoiseLevels Levels { get; }

    /// <summary>The highest order of a step.</summary>
    private protected int Order { get; }

    /// <summary>What the model predicted, converted.</summary>
    private protected TensorHistory Outputs { get; }

    /// <summary>Whether runs end with lower orders.</summary>
    private protected virtual bool EndsLower => Config.Flag("lower_order_final", true);

    /// <summary>Which timesteps are visited where no curve says so.</summary>
    private protected virtual string Spacing => TimestepSpacing.Of(Config, "linspace");

    /// <inheritdoc/>
    public override Tensor AddNoise(Tensor original, Tensor noise)
    {
        var level = Level(Index);
        return Terms.Sum((level.Alpha, original), (level.Sigma, noise));
    }

    /// <summary>The level before a call.</summary>
    private protected SnrLevel Level(int index) => SnrLevel.Of(Sigmas[index]);

    /// <summary>The level after the last step.</summary>
    /// <param name="curve">The cleanest level of a curve; null where the trained timesteps are visited.</param>
    private protected virtual double Last(double? curve) => Config.Word("final_sigmas_type", "zero") switch
    {
        "zero" => 0,
        "sigma_min" => Levels.Sigma(0),
        var other => throw SchedulerConfig.NotSupported("final_sigmas_type", other!),
    };

    /// <summary>The order of this step: no higher than what is known of earlier ones, and lower at the end.</summary>
    /// <param name="endsInEuler">Whether the last step is of first order whatever the configuration says.</param>
    private protected int OrderNow(bool endsInEuler)
    {
        var (left, endsLower) = (Timesteps.Count - Index, EndsLower && Timesteps.Count < FewSteps);
        return left == 1 && (endsInEuler || endsLower) ? 1 : Math.Min(Math.Min(Order, Outputs.Count), left == 2 && endsLower ? 2 : Order);
    }

    /// <summary>The original that a prediction implies.</summary>
    private protected Tensor Original(Tensor output, Tensor sample)
    {
        var level = Level(Index);
        return VarianceScheduler.InRange(Prediction.Original(output, sample, level.Alpha, level.Sigma), Config, clips: false);
    }

    /// <summary>The noise that a prediction implies.</summary>
    private protected Tensor Epsilon(Tensor output, Tensor sample)
    {
        var level = Level(Index);
        return Config.Flag("thresholding", false)
            ? PredictionKind.Sample.Noise(Original(output, sample), sample, level.Alpha, level.Sigma)
            : Prediction.Noise(output, sample, level.Alpha, level.Sigma);
    }

    /// <inheritdoc/>
    private protected override void Reset() => Outputs.Clear();

    /// <inheritdoc/>
    private protected override void Prepare(int steps)
    {
        // A least λ cuts off the noisiest timesteps.
        var clipped = Config.OptionalNumber("lambda_min_clipped") is { } least and > double.NegativeInfinity
            ? Enumerable.Range(0, Levels.Count).Count(timestep => SnrLevel.Of(Levels.Sigma(timestep)).Lambda < least)
            : 0;
        var timesteps = Array.ConvertAll(TimestepSpacing.Timesteps(Spacing, Config, steps, beforeLast: true, Levels.Count - clipped), Math.Round);
        var sigmas = Array.ConvertAll(timesteps, Levels.Sigma);
        double? cleanest = null;
        if (Curve(steps) is { } curve)
        {
            sigmas = curve.Sigmas;
            cleanest = sigmas[^1];
            timesteps = Array.ConvertAll(sigmas, sigma => Whole(Levels.TimestepOf(sigma), curve));
        }

        Timesteps = timesteps;
        Sigmas = [.. sigmas.Append(Last(cleanest)).Select(static sigma => (double)(float)sigma)];
    }

    private protected virtual SigmaCurve? Curve(int steps) => SigmaSpacing.Of(Config, Levels.Sigma(Levels.Count - 1), Levels.Sigma(0), steps);

    private protected virtual double Whole(double timestep, SigmaCurve curve) => curve.IsKarras ? Math.Round(timestep) : Math.Truncate(timestep);
}

/// <summary>A noise level.</summary>
/// <param name="Alpha">The original's share.</param>
/// <param name="Sigma">The noise's share.</param>
/// <param name="Lambda">log(α / σ); infinite without noise.</param>
internal readonly record struct SnrLevel(double Alpha, double Sigma, double Lambda)
{
    /// <summary>The level with such noise beside one unit of the original.</summary>
    public static SnrLevel Of(double sigma)
    {
        var alpha = 1 / Math.Sqrt((sigma * sigma) + 1);
        return new(alpha, sigma * alpha, -Math.Log(sigma));
    }
}
