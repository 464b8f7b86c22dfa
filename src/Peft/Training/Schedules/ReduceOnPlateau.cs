using System.Text.Json.Nodes;

namespace Peft.Training.Schedules;

/// <summary>
/// Multiplies the rate by <c>factor</c> (0.1) when the evaluation loss has not improved for more than <c>patience</c> (10) evaluations, as torch does.
/// Steps alone change nothing. <c>threshold</c> (1e-4) with <c>threshold_mode</c> rel or abs says what an improvement is,
/// <c>cooldown</c> (0) evaluations pass before it counts again, <c>min_lr</c> (0) is the floor, a change below <c>eps</c> (1e-8) is not made.
/// </summary>
internal sealed class ReduceOnPlateau : Schedule
{
    private readonly double initial;
    private readonly double factor;
    private readonly double threshold;
    private readonly double floor;
    private readonly double smallest;
    private readonly bool relative;
    private readonly int sign;
    private readonly int patience;
    private readonly int cooldown;
    private double rate;
    private double? best;
    private int bad;
    private int cooling;

    public ReduceOnPlateau(ScheduleArguments arguments)
    {
        var options = arguments.Options;
        initial = rate = arguments.Rate;
        factor = options.Number("factor") ?? 0.1;
        patience = options.Integer("patience") ?? 10;
        threshold = options.Number("threshold") ?? 1e-4;
        relative = options.Choice("threshold_mode", "rel", "abs") is "rel";
        sign = options.Choice("mode", "min", "max") is "min" ? 1 : -1;
        cooldown = options.Integer("cooldown") ?? 0;
        floor = options.Number("min_lr") ?? 0;
        smallest = options.Number("eps") ?? 1e-8;
        if (factor is <= 0 or >= 1)
        {
            throw new PeftException("TrainingOptionInvalid", FormattableString.Invariant($"The schedule's factor must lie between 0 and 1, but is {factor}."))
            {
                Target = "factor",
                RecommendedAction = "Give another factor in lr_scheduler_kwargs; 0.1 is usual.",
            };
        }
    }

    /// <inheritdoc/>
    public override double Factor(int step) => initial == 0 ? 1 : rate / initial;

    /// <inheritdoc/>
    public override void OnEvaluation(double loss)
    {
        if (IsBetter(loss))
        {
            best = loss;
            bad = 0;
        }
        else
        {
            bad++;
        }

        if (cooling > 0)
        {
            cooling--;
            bad = 0;
        }

        if (bad > patience)
        {
            var reduced = Math.Max(rate * factor, floor);
            rate = rate - reduced > smallest ? reduced : rate;
            cooling = cooldown;
            bad = 0;
        }
    }

    /// <inheritdoc/>
    public override JsonObject SaveState() => new() { ["rate"] = rate, ["best"] = best, ["bad"] = bad, ["cooling"] = cooling };

    /// <inheritdoc/>
    public override void LoadState(JsonObject state)
    {
        rate = (double)state["rate"]!;
        best = (double?)state["best"];
        bad = (int)state["bad"]!;
        cooling = (int)state["cooling"]!;
    }

    private bool IsBetter(double loss)
    {
        if (best is not { } old)
        {
            return !double.IsNaN(loss);
        }

        // A maximum is sought as the minimum of the negated values; a relative threshold moves with the best value's own sign, as in torch.
        var target = relative ? old * (1 - (sign * threshold)) : old - (sign * threshold);
        return sign * loss < sign * target;
    }
}
