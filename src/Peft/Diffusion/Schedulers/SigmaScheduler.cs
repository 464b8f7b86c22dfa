using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// A scheduler that thinks in x = original + σ · noise (Karras et al. 2022), and follows dx/dσ = (x - original) / σ. The model sees x / √(σ² + 1).
/// </summary>
public abstract class SigmaScheduler : NoiseScheduler
{
    private protected SigmaScheduler(SchedulerConfig config, BetaDefaults? betas = null, bool keepsLastAboveZero = false)
        : base(config)
    {
        Levels = new NoiseLevels(config, betas, keepsLastAboveZero);
        Sigmas = [Levels.Sigma(Levels.Count - 1), 0];
    }

    /// <summary>The noise levels of the training.</summary>
    public NoiseLevels Levels { get; }

    /// <inheritdoc/>
    public override double InitialNoise => TimestepSpacing.Of(Config, "linspace") == "leading" ? Math.Sqrt(Math.Pow(Sigmas.Max(), 2) + 1) : Sigmas.Max();

    /// <summary>σ at the next call.</summary>
    private protected virtual double Sigma => Sigmas[Index];

    /// <summary>Whether the scheduler knows Karras' curve and the others.</summary>
    private protected virtual bool KnowsCurves => true;

    /// <inheritdoc/>
    public override Tensor ScaleInput(Tensor sample) => sample.div(Math.Sqrt((Sigma * Sigma) + 1));

    /// <inheritdoc/>
    public override Tensor AddNoise(Tensor original, Tensor noise) => original.add(noise, Sigma);

    /// <summary>The original that a prediction at a level implies.</summary>
    private protected Tensor Original(Tensor output, Tensor sample, double sigma)
    {
        var scale = 1 / Math.Sqrt((sigma * sigma) + 1);
        return Prediction == PredictionKind.Velocity
            ? Terms.Sum((scale * scale, sample), (-sigma * scale, output))
            : Prediction.Original(output, sample, 1, sigma);
    }

    /// <summary>(x - original) / σ.</summary>
    private protected static Tensor Slope(Tensor sample, Tensor original, double sigma) => sample.sub(original).div(sigma);

    /// <summary>A timestep on a curve as the model is told it.</summary>
    private protected virtual double Told(double timestep, SigmaCurve curve) => timestep;

    /// <summary>The levels at timesteps, before the last one without noise.</summary>
    private protected virtual double[] At(double[] timesteps) => Array.ConvertAll(timesteps, Levels.Sigma);

    /// <summary>The level after the last step.</summary>
    private protected virtual double Last => 0;

    /// <inheritdoc/>
    private protected override void Prepare(int steps)
    {
        var timesteps = TimestepSpacing.Timesteps(TimestepSpacing.Of(Config, "linspace"), Config, steps);
        var sigmas = At(timesteps);
        if (KnowsCurves && SigmaSpacing.Of(Config, sigmas[0], sigmas[^1], steps) is { } curve)
        {
            sigmas = curve.Sigmas;
            timesteps = Array.ConvertAll(sigmas, sigma => Told(Levels.TimestepOf(sigma), curve));
        }

        Timesteps = timesteps;
        Sigmas = [.. sigmas.Append(Last).Select(static sigma => (double)(float)sigma)];
    }
}
