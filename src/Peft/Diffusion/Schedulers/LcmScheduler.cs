using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Latent consistency models (Luo et al. 2023): each call jumps to the original, and noise is added again for the next one.</summary>
public sealed class LcmScheduler : ConsistencyScheduler
{
    private const double DataDeviation = 0.5;

    internal LcmScheduler(SchedulerConfig config)
        : base(config)
    {
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var alpha = Alpha((int)Timestep);
        var original = Original(output, sample, alpha, clips: false);
        var scaled = Timestep * Config.Number("timestep_scaling", 10);
        var sum = (scaled * scaled) + (DataDeviation * DataDeviation);
        var denoised = Terms.Sum((scaled / Math.Sqrt(sum), original), (DataDeviation * DataDeviation / sum, sample));
        if (Index + 1 == Timesteps.Count)
        {
            return new(denoised, denoised);
        }

        var next = Alpha((int)Timesteps[Index + 1]);
        return new(Terms.Sum((Math.Sqrt(next), denoised), (Math.Sqrt(1 - next), noise())), denoised);
    }
}
