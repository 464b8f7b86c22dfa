using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// A scheduler that thinks in ᾱ at whole timesteps: x = √ᾱ · original + √(1 - ᾱ) · noise, which keeps the sample's variance.
/// </summary>
public abstract class VarianceScheduler : NoiseScheduler
{
    private readonly double _finalAlpha;

    private protected VarianceScheduler(SchedulerConfig config, bool endsAtOne, BetaDefaults? betas = null)
        : base(config)
    {
        Levels = new NoiseLevels(config, betas);
        _finalAlpha = config.Flag("set_alpha_to_one", endsAtOne) ? 1 : Levels.AlphaCumulative[0];
    }

    /// <summary>The noise levels of the training.</summary>
    public NoiseLevels Levels { get; }

    /// <summary>Number of steps of the run.</summary>
    private protected int Steps { get; private set; }

    /// <summary>How many trained timesteps lie between two steps.</summary>
    private protected int Stride => Config.TrainTimesteps / Steps;

    /// <inheritdoc/>
    public override Tensor AddNoise(Tensor original, Tensor noise)
    {
        var alpha = Alpha((int)Timestep);
        return Terms.Sum((Math.Sqrt(alpha), original), (Math.Sqrt(1 - alpha), noise));
    }

    /// <summary>ᾱ at a timestep; behind the last one what the configuration says.</summary>
    private protected double Alpha(int timestep) => timestep >= 0 ? Levels.AlphaCumulative[Math.Min(timestep, Levels.Count - 1)] : _finalAlpha;

    /// <summary>The original that a prediction implies, kept in range as the configuration says.</summary>
    private protected Tensor Original(Tensor output, Tensor sample, double alpha, bool clips) =>
        InRange(Prediction.Original(output, sample, Math.Sqrt(alpha), Math.Sqrt(1 - alpha)), Config, clips);

    /// <summary>An original kept in range: by a quantile of its own (Saharia et al. 2022), or cut off.</summary>
    internal static Tensor InRange(Tensor original, SchedulerConfig config, bool clips)
    {
        if (config.Flag("thresholding", false))
        {
            var rows = original.flatten(1).abs();
            var place = (rows.size(1) - 1) * config.Number("dynamic_thresholding_ratio", 0.995);
            var (sorted, _) = rows.sort(1);
            var below = sorted.select(1, (long)Math.Floor(place));
            var above = sorted.select(1, (long)Math.Ceiling(place));
            var limit = below.add(above.sub(below), place - Math.Floor(place)).clamp(1, Math.Max(1, config.Number("sample_max_value", 1)));
            limit = limit.view([-1, .. Enumerable.Repeat(1L, (int)original.dim() - 1)]);
            return original.maximum(limit.neg()).minimum(limit).div(limit);
        }

        var range = config.Number("clip_sample_range", 1);
        return config.Flag("clip_sample", clips) ? original.clamp(-range, range) : original;
    }

    /// <inheritdoc/>
    private protected override void Prepare(int steps)
    {
        Steps = steps;
        Timesteps = Spaced(steps);
    }

    /// <summary>The timesteps of a run.</summary>
    private protected virtual double[] Spaced(int steps) => Array.ConvertAll(TimestepSpacing.Timesteps(TimestepSpacing.Of(Config, "leading"), Config, steps), Math.Round);
}
