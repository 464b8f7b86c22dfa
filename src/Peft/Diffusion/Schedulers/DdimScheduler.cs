using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Denoising diffusion implicit models (Song et al. 2021), equation 12.</summary>
public sealed class DdimScheduler : VarianceScheduler
{
    internal DdimScheduler(SchedulerConfig config)
        : base(config, endsAtOne: true)
    {
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var now = (int)Timestep;
        var (alpha, next) = (Alpha(now), Alpha(now - Stride));
        var original = Original(output, sample, alpha, clips: true);
        var direction = Prediction.Noise(output, sample, Math.Sqrt(alpha), Math.Sqrt(1 - alpha));
        var deviation = Eta * Math.Sqrt((1 - next) / (1 - alpha) * (1 - (alpha / next)));
        var moved = Terms.Sum((Math.Sqrt(next), original), (Math.Sqrt(1 - next - (deviation * deviation)), direction));
        return new(Eta > 0 ? moved.add(noise(), deviation) : moved, original);
    }
}
