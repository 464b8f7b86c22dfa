using System.Text.Json.Nodes;

namespace Peft.Training.Schedules;

/// <summary>The schedules by Hugging Face's names (<c>lr_scheduler_type</c>). A new one is a method or a file, and a line here.</summary>
public static class ScheduleRegistry
{
    private static readonly Dictionary<string, (string Summary, Func<ScheduleArguments, Schedule> Create)> s_factories = new(StringComparer.Ordinal)
    {
        ["linear"] = ("falls in a straight line to 0", DecaySchedules.Linear),
        ["cosine"] = ("falls along half a cosine to 0", CosineSchedules.Cosine),
        ["cosine_with_restarts"] = ("falls along half a cosine to 0, several times over (num_cycles)", CosineSchedules.WithRestarts),
        ["cosine_with_min_lr"] = ("falls along half a cosine to a least rate (min_lr or min_lr_rate)", CosineSchedules.WithMinimum),
        ["cosine_warmup_with_min_lr"] = ("rises along a cosine in the warm-up, then falls along one to a least rate", CosineSchedules.WarmupWithMinimum),
        ["constant"] = ("stays as it is", static _ => new FormulaSchedule(static _ => 1)),
        ["constant_with_warmup"] = ("rises in the warm-up, then stays", DecaySchedules.ConstantWithWarmup),
        ["polynomial"] = ("falls along a power of the steps left (power) to a last rate (lr_end)", DecaySchedules.Polynomial),
        ["inverse_sqrt"] = ("falls with the square root of the steps (timescale)", DecaySchedules.InverseSquareRoot),
        ["warmup_stable_decay"] = ("rises, stays, and falls at the end (num_decay_steps)", WarmupStableDecay.Create),
        ["reduce_lr_on_plateau"] = ("falls whenever the evaluation loss stops falling (patience, factor)", static arguments => new ReduceOnPlateau(arguments)),
    };

    /// <summary>Names of all schedules.</summary>
    public static IReadOnlyCollection<string> Names => s_factories.Keys;

    /// <summary>What the learning rate does under a schedule, in a few words; the name where nobody knows it.</summary>
    /// <param name="name">The schedule's name.</param>
    public static string Describe(string name) => s_factories.TryGetValue(name, out var known) ? known.Summary : name;

    /// <summary>Whether a schedule has no steps in which the rate rises, as Hugging Face's of its name hasn't.</summary>
    internal static bool IgnoresWarmup(string name) => name is "constant" or "reduce_lr_on_plateau";

    /// <summary>A name as it is written here, whatever the case of the one that was given; one that nobody knows comes back as it is.</summary>
    internal static string Canonical(string name) => Names.FirstOrDefault(known => known.Equals(name, StringComparison.OrdinalIgnoreCase)) ?? name;

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
        if (!s_factories.TryGetValue(name, out var known))
        {
            throw new NotSupportedByPeftException(
                "ScheduleNotSupported", $"There is no learning-rate schedule '{name}'. Choose one of {string.Join(", ", Names)}.{Spelling.DidYouMean(name, Names)}")
            {
                Target = name,
                RecommendedAction = "Correct the name.",
            };
        }

        var named = new NamedOptions($"schedule '{name}'", options);
        var schedule = known.Create(new ScheduleArguments(rate, warmupSteps, totalSteps, named));
        named.RefuseOthers();
        return schedule;
    }
}
