using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Denoising diffusion probabilistic models (Ho et al. 2020), equations 6 and 7.</summary>
public sealed class DdpmScheduler : VarianceScheduler
{
    private const double LeastVariance = 1e-20;
    private readonly string _variance;

    internal DdpmScheduler(SchedulerConfig config)
        : base(config, endsAtOne: true)
    {
        _variance = config.Word("variance_type", "fixed_small")!;
        if (_variance is not ("fixed_small" or "fixed_small_log" or "fixed_large" or "learned" or "learned_range"))
        {
            throw SchedulerConfig.NotSupported("variance_type", _variance);
        }
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        Tensor? predicted = null;
        if (_variance is "learned" or "learned_range" && output.size(1) == 2 * sample.size(1))
        {
            (output, predicted) = (output.narrow(1, 0, sample.size(1)), output.narrow(1, sample.size(1), sample.size(1)));
        }

        var now = (int)Timestep;
        var (alpha, next) = (Alpha(now), Index + 1 < Timesteps.Count ? Alpha((int)Timesteps[Index + 1]) : 1);
        var beta = 1 - (alpha / next);
        var original = Original(output, sample, alpha, clips: true);
        var mean = Terms.Sum((Math.Sqrt(next) * beta / (1 - alpha), original), (Math.Sqrt(alpha / next) * (1 - next) / (1 - alpha), sample));
        return new(now > 0 ? mean.add(Noise(noise(), Math.Max((1 - next) / (1 - alpha) * beta, LeastVariance), beta, predicted)) : mean, original);
    }

    private Tensor Noise(Tensor noise, double small, double large, Tensor? predicted) => _variance switch
    {
        "fixed_large" => noise.mul(Math.Sqrt(large)),
        "learned" when predicted is not null => noise.mul(predicted.sqrt()),
        "learned_range" when predicted is not null =>
            noise.mul(predicted.add(1).div(2).mul(Math.Log(large) - Math.Log(small)).add(Math.Log(small)).mul(0.5).exp()),
        _ => noise.mul(Math.Sqrt(small)),
    };
}
