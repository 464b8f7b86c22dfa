using System.Text.Json.Nodes;

namespace Peft.Training.Schedules;

/// <summary>
/// Multiplies the rate by <c>factor</c> (0.1) when the evaluation loss has not improved for more than <c>patience</c> (10) evaluations, as torch does.
/// Steps alone change nothing. <c>threshold</c> (1e-4) with <c>threshold_mode</c> rel or abs says what an improvement is,
/// <c>cooldown</c> (0) evaluations pass before it counts again, <c>min_lr</c> (0) is the floor, a change below <c>eps</c> (1e-8) is not made.
/// </summary>
internal sealed class ReduceOnPlateau : Schedule
{
    private readonly double _initial;
    private readonly double _factor;
    private readonly double _threshold;
    private readonly double _floor;
    private readonly double _smallest;
    private readonly bool _relative;
    private readonly int _sign;
    private readonly int _patience;
    private readonly int _cooldown;
    private double _rate;
    private double? _best;
    private int _bad;
    private int _cooling;

    public ReduceOnPlateau(ScheduleArguments arguments)
    {
        var options = arguments.Options;
        _initial = _rate = arguments.Rate;
        _factor = options.Number("factor") ?? 0.1;
        _patience = options.Integer("patience") ?? 10;
        _threshold = options.Number("threshold") ?? 1e-4;
        _relative = options.Choice("threshold_mode", "rel", "abs") is "rel";
        _sign = options.Choice("mode", "min", "max") is "min" ? 1 : -1;
        _cooldown = options.Integer("cooldown") ?? 0;
        _floor = options.Number("min_lr") ?? 0;
        _smallest = options.Number("eps") ?? 1e-8;
        if (_factor is <= 0 or >= 1)
        {
            throw new PeftException("TrainingOptionInvalid", FormattableString.Invariant($"The schedule's factor must lie between 0 and 1, but is {_factor}."))
            {
                Target = "factor",
                RecommendedAction = "Give another factor in lr_scheduler_kwargs; 0.1 is usual.",
            };
        }
    }

    /// <inheritdoc/>
    public override double Factor(int step) => _initial == 0 ? 1 : _rate / _initial;

    /// <inheritdoc/>
    public override void OnEvaluation(double loss)
    {
        if (IsBetter(loss))
        {
            _best = loss;
            _bad = 0;
        }
        else
        {
            _bad++;
        }

        if (_cooling > 0)
        {
            _cooling--;
            _bad = 0;
        }

        if (_bad > _patience)
        {
            var reduced = Math.Max(_rate * _factor, _floor);
            _rate = _rate - reduced > _smallest ? reduced : _rate;
            _cooling = _cooldown;
            _bad = 0;
        }
    }

    /// <inheritdoc/>
    public override JsonObject SaveState() => new() { ["rate"] = _rate, ["best"] = _best, ["bad"] = _bad, ["cooling"] = _cooling };

    /// <inheritdoc/>
    public override void LoadState(JsonObject state)
    {
        _rate = (double)state["rate"]!;
        _best = (double?)state["best"];
        _bad = (int)state["bad"]!;
        _cooling = (int)state["cooling"]!;
    }

    private bool IsBetter(double loss)
    {
        if (_best is not { } old)
        {
            return !double.IsNaN(loss);
        }

        // A maximum is sought as the minimum of the negated values; a relative threshold moves with the best value's own sign, as in torch.
        var target = _relative ? old * (1 - (_sign * _threshold)) : old - (_sign * _threshold);
        return _sign * loss < _sign * target;
    }
}
