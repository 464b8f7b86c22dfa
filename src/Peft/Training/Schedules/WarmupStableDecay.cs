namespace Peft.Training.Schedules;

/// <summary>
/// Rises, stays, falls (WSD), as transformers defines it: <c>warmup_type</c> and <c>decay_type</c> are linear, cosine or 1-sqrt,
/// <c>num_decay_steps</c> must be given, <c>num_stable_steps</c> is what is left of the training, <c>min_lr_ratio</c> (0) is both start and end.
/// </summary>
internal static class WarmupStableDecay
{
    public static Schedule Create(ScheduleArguments arguments)
    {
        var options = arguments.Options;
        var warmup = options.Choice("warmup_type", "linear", "cosine", "1-sqrt");
        var decay = options.Choice("decay_type", "cosine", "linear", "1-sqrt");
        var least = options.Number("min_lr_ratio") ?? 0;
        var cycles = options.Number("num_cycles") ?? 0.5;
        var decaySteps = options.Integer("num_decay_steps")
            ?? throw new PeftException("TrainingOptionInvalid", "The schedule 'warmup_stable_decay' needs num_decay_steps among its options.")
            {
                Target = "num_decay_steps",
                RecommendedAction = "Put num_decay_steps into lr_scheduler_kwargs.",
            };
        var decayStart = arguments.WarmupSteps
            + (options.Integer("num_stable_steps") ?? arguments.TotalSteps - arguments.WarmupSteps - decaySteps);
        return new FormulaSchedule(step =>
        {
            if (step < arguments.WarmupSteps)
            {
                return Above(least, Rise(warmup, (double)step / Math.Max(1, arguments.WarmupSteps)));
            }

            return step < decayStart ? 1
                : step < decayStart + decaySteps ? Above(least, Fall(decay, cycles, (double)(step - decayStart) / Math.Max(1, decaySteps)))
                : least;
        });
    }

    private static double Above(double least, double factor) => Math.Max(0, (factor * (1 - least)) + least);

    private static double Rise(string kind, double progress) => kind switch
    {
        "linear" => progress,
        "cosine" => 0.5 * (1 - Math.Cos(Math.PI * progress)),
        _ => 1 - Math.Sqrt(1 - progress),
    };

    private static double Fall(string kind, double cycles, double progress) => kind switch
    {
        "linear" => 1 - progress,
        "cosine" => 0.5 * (1 + Math.Cos(Math.PI * cycles * 2 * progress)),
        _ => 1 - Math.Sqrt(progress),
    };
}
