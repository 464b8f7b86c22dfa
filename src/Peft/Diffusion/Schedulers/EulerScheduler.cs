using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Euler's method (Karras et al. 2022, algorithm 2 without churn).</summary>
public sealed class EulerScheduler : SigmaScheduler
{
    internal EulerScheduler(SchedulerConfig config)
        : base(config, keepsLastAboveZero: true)
    {
        if (config.Word("timestep_type", "discrete") is var kind and not "discrete")
        {
            throw SchedulerConfig.NotSupported("timestep_type", kind!);
        }
    }

    private protected override double Last => Config.Word("final_sigmas_type", "zero") switch
    {
        "zero" => 0,
        "sigma_min" => Levels.Sigma(0),
        var other => throw SchedulerConfig.NotSupported("final_sigmas_type", other!),
    };

    private protected override double[] At(double[] timesteps) => Config.Word("interpolation_type", "linear") switch
    {
        "linear" => base.At(timesteps),
        "log_linear" => [.. TimestepSpacing.Line(Math.Log(Levels.Sigma(Levels.Count - 1)), Math.Log(Levels.Sigma(0)), timesteps.Length + 1).Select(Math.Exp)],
        var other => throw SchedulerConfig.NotSupported("interpolation_type", other!),
    };

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = Original(output, sample, Sigma);
        return new(sample.add(Slope(sample, original, Sigma), Sigmas[Index + 1] - Sigma), original);
    }
}
