using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Euler's method to a level below the next one, and noise up to it.</summary>
public sealed class EulerAncestralScheduler : SigmaScheduler
{
    internal EulerAncestralScheduler(SchedulerConfig config)
        : base(config, keepsLastAboveZero: true)
    {
    }

    private protected override bool KnowsCurves => false;

    /// <summary>How far down and up again a step between two levels goes, so that the variance agrees.</summary>
    internal static (double Down, double Up) Detour(double from, double to)
    {
        var up = Math.Sqrt(to * to * ((from * from) - (to * to)) / (from * from));
        return (Math.Sqrt((to * to) - (up * up)), up);
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = Original(output, sample, Sigma);
        var (down, up) = Detour(Sigma, Sigmas[Index + 1]);
        return new(Terms.Sum((1, sample), (down - Sigma, Slope(sample, original, Sigma)), (up, noise())), original);
    }
}
