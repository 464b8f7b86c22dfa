using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Euler's method for flow matching (Lipman et al. 2023; shifted as Esser et al. 2024): x = (1 - σ) · original + σ · noise, and the model gives dx/dσ.</summary>
public sealed class FlowMatchEulerScheduler : NoiseScheduler
{
    internal FlowMatchEulerScheduler(SchedulerConfig config)
        : base(config) => config.Refuse("use_dynamic_shifting", "invert_sigmas");

    /// <inheritdoc/>
    public override Tensor AddNoise(Tensor original, Tensor noise) => Terms.Sum((1 - Sigmas[Index], original), (Sigmas[Index], noise));

    private protected override void Prepare(int steps)
    {
        double trained = Config.TrainTimesteps;
        double[] sigmas = [.. TimestepSpacing.Line(1, Shifted(1 / trained), steps).Select(Shifted)];
        if (Config.OptionalNumber("shift_terminal") is { } terminal and > 0)
        {
            var scale = (1 - sigmas[^1]) / (1 - terminal);
            sigmas = Array.ConvertAll(sigmas, sigma => 1 - ((1 - sigma) / scale));
        }

        sigmas = SigmaSpacing.Of(Config, sigmas[0], sigmas[^1], steps)?.Sigmas ?? sigmas;
        Timesteps = Array.ConvertAll(sigmas, sigma => sigma * trained);
        Sigmas = [.. sigmas, 0];
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var (now, next) = (Sigmas[Index], Sigmas[Index + 1]);
        var original = sample.add(output, -now);
        return new(Config.Flag("stochastic_sampling", false) ? Terms.Sum((1 - next, original), (next, noise())) : sample.add(output, next - now), original);
    }

    private double Shifted(double sigma)
    {
        var shift = Config.Number("shift", 1);
        return shift * sigma / (1 + ((shift - 1) * sigma));
    }
}
