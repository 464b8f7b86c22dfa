namespace Peft.Diffusion.Schedulers;

/// <summary>What schedulers of distilled models share: they visit a few of the timesteps that the distillation used (<c>original_inference_steps</c>).</summary>
public abstract class ConsistencyScheduler : VarianceScheduler
{
    private protected ConsistencyScheduler(SchedulerConfig config)
        : base(config, endsAtOne: true, new BetaDefaults(0.00085, 0.012, "scaled_linear"))
    {
    }

    private protected override double[] Spaced(int steps)
    {
        var original = Config.Integer("original_inference_steps", 50);
        if (original < 1 || original > Config.TrainTimesteps)
        {
            throw SchedulerConfig.Invalid("original_inference_steps", "a number from 1 to num_train_timesteps");
        }

        if (steps > original)
        {
            throw new PeftException("SchedulerStepsInvalid", $"The model was distilled to {original} steps or fewer; {steps} can't be made.")
            {
                Target = steps,
            };
        }

        var stride = Config.TrainTimesteps / original;
        return [.. Enumerable.Range(0, steps).Select(i => (double)(((original - (int)Math.Floor(i * ((double)original / steps))) * stride) - 1))];
    }
}
