using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>DPM-Solver-2 in Karras' form to a level below the next one, and noise up to it.</summary>
public sealed class Kdpm2AncestralScheduler : SecondOrderScheduler
{
    internal Kdpm2AncestralScheduler(SchedulerConfig config)
        : base(config)
    {
    }

    private protected override double Between(double from, double to) => Math.Sqrt(from * EulerAncestralScheduler.Detour(from, to).Down);

    private protected override double Told(double timestep, SigmaCurve curve) => curve.IsKarras ? Math.Round(timestep) : timestep;

    private protected override Tensor Finish(Tensor start, Tensor first, Tensor second, double from, double to, Func<Tensor> noise)
    {
        var (down, up) = EulerAncestralScheduler.Detour(from, to);
        return Terms.Sum((1, start), (down - from, second), (up, noise()));
    }
}
