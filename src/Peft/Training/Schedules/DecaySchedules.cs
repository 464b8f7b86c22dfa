namespace Peft.Training.Schedules;

/// <summary>Schedules that rise linearly and then fall along a simple curve, as transformers defines them.</summary>
internal static class DecaySchedules
{
    /// <summary>Falls linearly to 0 at the end.</summary>
    public static Schedule Linear(ScheduleArguments arguments) => new FormulaSchedule(step =>
        arguments.WarmupFactor(step)
        ?? Math.Max(0, (double)(arguments.TotalSteps - step) / Math.Max(1, arguments.TotalSteps - arguments.WarmupSteps)));

    /// <summary>Stays.</summary>
    public static Schedule ConstantWithWarmup(ScheduleArguments arguments) => new FormulaSchedule(step => arguments.WarmupFactor(step) ?? 1);

    /// <summary>Falls to <c>lr_end</c> (1e-7) along a power (<c>power</c>, 1) of the time left.</summary>
    public static Schedule Polynomial(ScheduleArguments arguments)
    {
        var end = arguments.Options.Number("lr_end") ?? 1e-7;
        var power = arguments.Options.Number("power") ?? 1;
        if (end >= arguments.Rate)
        {
            throw new PeftException(
                "TrainingOptionInvalid", FormattableString.Invariant($"lr_end ({end}) must be smaller than the learning rate ({arguments.Rate})."))
            {
                Target = "lr_end",
                RecommendedAction = "Lower lr_end in lr_scheduler_kwargs, or raise the learning rate.",
            };
        }

        var decaySteps = arguments.TotalSteps - arguments.WarmupSteps;
        return new FormulaSchedule(step =>
        {
            if (arguments.WarmupFactor(step) is { } rising)
            {
                return rising;
            }

            var left = step > arguments.TotalSteps ? 0 : 1 - ((double)(step - arguments.WarmupSteps) / decaySteps);
            return (((arguments.Rate - end) * Math.Pow(left, power)) + end) / arguments.Rate;
        });
    }

    /// <summary>Falls with the inverse square root of the step; <c>timescale</c> is the warm-up's length, or 10 000 without one.</summary>
    public static Schedule InverseSquareRoot(ScheduleArguments arguments)
    {
        var timescale = arguments.Options.Integer("timescale") ?? (arguments.WarmupSteps > 0 ? arguments.WarmupSteps : 10_000);
        return new FormulaSchedule(step =>
            arguments.WarmupFactor(step) ?? 1 / Math.Sqrt((double)(step + timescale - arguments.WarmupSteps) / timescale));
    }
}
