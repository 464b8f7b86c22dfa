using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Trajectory consistency distillation (Zheng et al. 2024), algorithm 4: each call jumps along the trajectory, and part of the noise is drawn again (<see cref="NoiseScheduler.Eta"/>).</summary>
public sealed class TcdScheduler : ConsistencyScheduler
{
    internal TcdScheduler(SchedulerConfig config)
        : base(config)
    {
    }

    /// <inheritdoc/>
    public override double Eta { get; set; } = 0.3;

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var isLast = Index + 1 == Timesteps.Count;
        var following = isLast ? 0 : (int)Timesteps[Index + 1];
        var (alpha, next, jumped) = (Alpha((int)Timestep), Alpha(following), Alpha((int)Math.Floor((1 - Eta) * following)));
        var original = Prediction.Original(output, sample, Math.Sqrt(alpha), Math.Sqrt(1 - alpha));
        var epsilon = Prediction.Noise(output, sample, Math.Sqrt(alpha), Math.Sqrt(1 - alpha));
        var moved = Terms.Sum((Math.Sqrt(jumped), original), (Math.Sqrt(1 - jumped), epsilon));
        return new(Eta > 0 && !isLast ? Terms.Sum((Math.Sqrt(next / jumped), moved), (Math.Sqrt(1 - (next / jumped)), noise())) : moved, original);
    }
}
