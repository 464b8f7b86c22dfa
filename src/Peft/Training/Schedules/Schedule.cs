using System.Text.Json.Nodes;

namespace Peft.Training.Schedules;

/// <summary>
/// How the learning rate runs over a training. Every parameter group's own rate is multiplied by <see cref="Factor"/>,
/// so that groups with different rates (LoRA+) keep their ratio.
/// </summary>
public abstract class Schedule
{
    /// <summary>What the rate of optimiser step <paramref name="step"/> is, as a multiple of the initial one.</summary>
    /// <param name="step">Counted from 0.</param>
    public abstract double Factor(int step);

    /// <summary>Tells the schedule an evaluation's loss; only those that react to it do anything.</summary>
    public virtual void OnEvaluation(double loss)
    {
    }

    /// <summary>What a checkpoint must hold beyond the step, or null.</summary>
    public virtual JsonObject? SaveState() => null;

    /// <summary>Takes up a state that <see cref="SaveState"/> gave.</summary>
    public virtual void LoadState(JsonObject state)
    {
    }
}

/// <summary>What a schedule is made from.</summary>
/// <param name="Rate">The initial learning rate.</param>
/// <param name="WarmupSteps">Number of steps in which the rate rises.</param>
/// <param name="TotalSteps">Number of optimiser steps of the whole training.</param>
/// <param name="Options"><c>lr_scheduler_kwargs</c>.</param>
public readonly record struct ScheduleArguments(double Rate, int WarmupSteps, int TotalSteps, NamedOptions Options)
{
    /// <summary>The factor while the rate rises linearly from 0, or null from the end of the warm-up on.</summary>
    internal double? WarmupFactor(int step) => step < WarmupSteps ? (double)step / Math.Max(1, WarmupSteps) : null;

    /// <summary>How much of the time after the warm-up has passed: 0 at its end, 1 at the end of the training.</summary>
    internal double Progress(int step) => (double)(step - WarmupSteps) / Math.Max(1, TotalSteps - WarmupSteps);
}

/// <summary>A schedule given by a formula for its factor.</summary>
internal sealed class FormulaSchedule(Func<int, double> formula) : Schedule
{
    /// <inheritdoc/>
    public override double Factor(int step) => formula(step);
}
