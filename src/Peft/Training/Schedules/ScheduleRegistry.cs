using System.Text.Json.Nodes;

namespace Peft.Training.Schedules;

/// <summary>The schedules by Hugging Face's names (<c>lr_scheduler_type</c>). A new one is a method or a file, and a line here.</summary>
public static class ScheduleRegistry
{
    private static readonly Dictionary<string, Func<ScheduleArguments, Schedule>> s_factories = new(StringComparer.Ordinal)
    {
        ["linear"] = DecaySchedules.Linear,
        ["cosine"] = CosineSchedules.Cosine,
        ["cosine_with_restarts"] = CosineSchedules.WithRestarts,
        ["cosine_with_min_lr"] = CosineSchedules.WithMinimum,
        ["cosine_warmup_with_min_lr"] = CosineSchedules.WarmupWithMinimum,
        ["constant"] = static _ => new FormulaSchedule(static _ => 1),
        ["constant_with_warmup"] = DecaySchedules.ConstantWithWarmup,
        ["polynomial"] = DecaySchedules.Polynomial,
        ["inverse_sqrt"] = DecaySchedules.InverseSquareRoot,
        ["warmup_stable_decay"] = WarmupStableDecay.Create,
        ["reduce_lr_on_plateau"] = static arguments => new ReduceOnPlateau(arguments),
    };

    /// <summary>Names of all schedules.</summary>
    public static IReadOnlyCollection<string> Names => s_factories.Keys;

    /// <summary>Makes a schedule.</summary>
    /// <param name="name">Hugging Face's name, such as <c>cosine_with_min_lr</c>.</param>
    /// <param name="rate">The initial learning rate.</param>
    /// <param name="warmupSteps">Number of steps in which the rate rises; ignored by <c>constant</c> and <c>reduce_lr_on_plateau</c>.</param>
    /// <param name="totalSteps">Number of optimiser steps of the whole training.</param>
    /// <param name="options">The schedule's own options (<c>lr_scheduler_kwargs</c>), or null.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ScheduleNotSupported</c>: nobody knows the name.</exception>
    /// <exception cref="PeftException"><c>TrainingOptionUnknown</c> or <c>TrainingOptionInvalid</c>: an option doesn't fit the schedule.</exception>
    public static Schedule Create(string name, double rate, int warmupSteps, int totalSteps, JsonObject? options = null)
    {
        if (!s_factories.TryGetValue(name, out var factory))
        {
            throw new NotSupportedByPeftException(
                "ScheduleNotSupported", $"There is no learning-rate schedule '{name}'. Choose one of {string.Join(", ", Names)}.")
            {
                Target = name,
                RecommendedAction = "Correct the name.",
            };
        }

        var named = new NamedOptions($"schedule '{name}'", options);
        var schedule = factory(new ScheduleArguments(rate, warmupSteps, totalSteps, named));
        named.RefuseOthers();
        return schedule;
    }
}
