using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Heun's method (Karras et al. 2022, algorithm 1): the mean of the slopes at both ends.</summary>
public sealed class HeunScheduler : SecondOrderScheduler
{
    internal HeunScheduler(SchedulerConfig config)
        : base(config)
    {
    }

    private protected override double Between(double from, double to) => to;

    private protected override double TimestepBetween(double from, double to, double timestepAfter) => timestepAfter;

    private protected override Tensor Finish(Tensor start, Tensor first, Tensor second, double from, double to, Func<Tensor> noise) =>
        Terms.Sum((1, start), ((to - from) / 2, first), ((to - from) / 2, second));
}
