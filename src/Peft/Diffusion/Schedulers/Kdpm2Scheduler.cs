using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>DPM-Solver-2 in Karras' form: the slope at the geometric mean of both levels.</summary>
public sealed class Kdpm2Scheduler : SecondOrderScheduler
{
    internal Kdpm2Scheduler(SchedulerConfig config)
        : base(config)
    {
    }

    private protected override double Between(double from, double to) => Math.Sqrt(from * to);

    private protected override double Told(double timestep, SigmaCurve curve) => curve.IsKarras ? Math.Round(timestep) : timestep;

    private protected override Tensor Finish(Tensor start, Tensor first, Tensor second, double from, double to, Func<Tensor> noise) => start.add(second, to - from);
}
