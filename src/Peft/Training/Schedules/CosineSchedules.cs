namespace Peft.Training.Schedules;

/// <summary>Schedules along a cosine (SGDR, Loshchilov and Hutter 2017), as transformers defines them.</summary>
internal static class CosineSchedules
{
    /// <summary>Falls along <c>num_cycles</c> (0.5) waves.</summary>
    public static Schedule Cosine(ScheduleArguments arguments)
    {
        var cycles = arguments.Options.Number("num_cycles") ?? 0.5;
        return new FormulaSchedule(step => arguments.WarmupFactor(step) ?? Math.Max(0, Wave(cycles, arguments.Progress(step))));
    }

    /// <summary>Falls along half a wave <c>num_cycles</c> (1) times, starting again at the full rate each time.</summary>
    public static Schedule WithRestarts(ScheduleArguments arguments)
    {
        var cycles = arguments.Options.Number("num_cycles") ?? 1;
        return new FormulaSchedule(step =>
        {
            if (arguments.WarmupFactor(step) is { } rising)
            {
                return rising;
            }

            var progress = arguments.Progress(step);
            return progress >= 1 ? 0 : Math.Max(0, Wave(0.5, cycles * progress % 1));
        });
    }

    /// <summary>Falls along <c>num_cycles</c> (0.5) waves to <c>min_lr</c>, or to <c>min_lr_rate</c> times the rate.</summary>
    public static Schedule WithMinimum(ScheduleArguments arguments)
    {
        var cycles = arguments.Options.Number("num_cycles") ?? 0.5;
        var least = Minimum(arguments);
        return new FormulaSchedule(step =>
            arguments.WarmupFactor(step) ?? Math.Max(0, (Wave(cycles, arguments.Progress(step)) * (1 - least)) + least));
    }

    /// <summary>
    /// As <see cref="WithMinimum"/>, one step ahead; the warm-up starts at <c>warmup_lr_rate</c> times the rate, or one step above 0.
    /// </summary>
    public static Schedule WarmupWithMinimum(ScheduleArguments arguments)
    {
        var cycles = arguments.Options.Number("num_cycles") ?? 0.5;
        var start = arguments.Options.Number("warmup_lr_rate");
        var least = Minimum(arguments);
        return new FormulaSchedule(step =>
        {
            if (step < arguments.WarmupSteps)
            {
                return start is { } from ? from + ((1 - from) * step / Math.Max(1, arguments.WarmupSteps - 1)) : (step + 1.0) / arguments.WarmupSteps;
            }

            return Math.Max(0, (Wave(cycles, arguments.Progress(step + 1)) * (1 - least)) + least);
        });
    }

    private static double Wave(double cycles, double progress) => 0.5 * (1 + Math.Cos(Math.PI * cycles * 2 * progress));

    private static double Minimum(ScheduleArguments arguments)
    {
        var rate = arguments.Options.Number("min_lr");
        var ratio = arguments.Options.Number("min_lr_rate");
        return (rate, ratio) switch
        {
            ({ } absolute, null) => absolute / arguments.Rate,
            (null, { } relative) => relative,
            _ => throw new PeftException("TrainingOptionInvalid", "This schedule needs either min_lr or min_lr_rate among its options, and not both.")
            {
                Target = "min_lr",
                RecommendedAction = "Put one of them into lr_scheduler_kwargs.",
            },
        };
    }
}
