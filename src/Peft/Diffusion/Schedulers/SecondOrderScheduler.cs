using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>A method that calls the model twice a step: at a level, and at one in between, from which it takes the slope. The last step, to no noise, is Euler's.</summary>
public abstract class SecondOrderScheduler : SigmaScheduler
{
    private readonly TensorHistory _start = new(1);
    private readonly TensorHistory _slope = new(1);

    private protected SecondOrderScheduler(SchedulerConfig config)
        : base(config, new BetaDefaults(0.00085, 0.012))
    {
    }

    /// <inheritdoc/>
    public override int CallsPerStep => 2;

    private protected override double Sigma => Index % 2 == 0 ? Sigmas[Index / 2] : Between(Sigmas[Index / 2], Sigmas[(Index / 2) + 1]);

    /// <summary>The level of the second call.</summary>
    private protected abstract double Between(double from, double to);

    /// <summary>The step, from both slopes.</summary>
    private protected abstract Tensor Finish(Tensor start, Tensor first, Tensor second, double from, double to, Func<Tensor> noise);

    /// <summary>What the model is told at the second call of a step.</summary>
    private protected virtual double TimestepBetween(double from, double to, double timestepAfter) => Levels.TimestepOf(Between(from, to));

    private protected override void Reset()
    {
        _start.Clear();
        _slope.Clear();
    }

    private protected override void Prepare(int steps)
    {
        base.Prepare(steps);
        var points = Timesteps;
        Timesteps = [points[0], .. Enumerable.Range(0, steps - 1).SelectMany(i => new[] { TimestepBetween(Sigmas[i], Sigmas[i + 1], points[i + 1]), points[i + 1] })];
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = Original(output, sample, Sigma);
        if (Config.Flag("clip_sample", false))
        {
            var range = Config.Number("clip_sample_range", 1);
            original = original.clamp(-range, range);
        }

        var slope = Slope(sample, original, Sigma);
        var (from, to) = (Sigmas[Index / 2], Sigmas[(Index / 2) + 1]);
        if (Index % 2 == 1)
        {
            return new(Finish(_start[0], _slope[0], slope, from, to, noise), original);
        }

        _start.Add(sample);
        _slope.Add(slope);
        var isLast = Index + 1 == Timesteps.Count;
        return new(sample.add(slope, (isLast ? to : Between(from, to)) - from), original);
    }
}
