using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// Adafactor (Shazeer and Stern 2018) in transformers' arithmetic: the second moment of a matrix is kept as a row and a column.
/// By default it takes the training's rate (<c>relative_step</c> and <c>scale_parameter</c> false, as transformers' trainer has it).
/// </summary>
internal sealed class Adafactor : Optimizer
{
    private readonly double _floor;
    private readonly double _scaleFloor;
    private readonly double _threshold;
    private readonly double _decayRate;
    private readonly double? _beta1;
    private readonly bool _relative;
    private readonly bool _scaled;
    private readonly bool _warm;
    private readonly Tensor? _mean;
    private readonly (Tensor Row, Tensor? Column)[] _squares;
    private double _firstRate;

    public Adafactor(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        var own = settings.Own;
        (_floor, _scaleFloor) = own.Pair("eps") ?? (1e-30, 1e-3);
        _threshold = own.Number("clip_threshold") ?? 1;
        _decayRate = own.Number("decay_rate") ?? -0.8;
        _beta1 = own.Number("beta1");
        _relative = own.Flag("relative_step") ?? false;
        _scaled = own.Flag("scale_parameter") ?? false;
        _warm = own.Flag("warmup_init") ?? false;
        _mean = _beta1 is null ? null : Remember("exp_avg");
        _squares = [.. parameters.Entries.Select(entry => Squares(entry.Trained.Parameter.Shape, entry.Trained.Name))];
        _firstRate = settings.Training.LearningRate;
    }

    /// <summary>The rate the schedule gives, or, where Adafactor makes its own, that of the first parameter in the step before.</summary>
    public override IReadOnlyList<double> Rates(double factor) => _relative ? [StepCount == 0 ? 0 : _firstRate] : base.Rates(factor);

    /// <inheritdoc/>
    protected override void Update(double factor)
    {
        var beta2 = 1 - Math.Pow(StepCount, _decayRate);
        for (var i = 0; i < _squares.Length; i++)
        {
            using var scope = NewDisposeScope();
            var entry = Parameters.Entries[i];
            var rate = RateOf(entry, factor);
            _firstRate = i == 0 ? rate : _firstRate;
            var update = Scaled(entry.Gradient, _squares[i], beta2);
            update.div_(RootMeanSquare(update).div_(_threshold).clamp_(min: 1)).mul_(rate);
            if (_mean is not null)
            {
                var kept = _mean.narrow(0, entry.Offset, update.numel()).view(update.shape);
                update = kept.mul_(_beta1!.Value).add_(update, alpha: 1 - _beta1.Value);
            }

            if (entry.Settings.WeightDecay != 0)
            {
                entry.Value.mul_(1 - (entry.Settings.WeightDecay * rate));
            }

            entry.Value.sub_(update);
        }
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay) =>
        throw new InvalidOperationException("Adafactor goes parameter by parameter.");

    private static Tensor RootMeanSquare(Tensor values) => values.norm().div_(Math.Sqrt(values.numel()));

    private Tensor Scaled(Tensor gradient, (Tensor Row, Tensor? Column) kept, double beta2)
    {
        var square = gradient.mul(gradient).add_(_floor);
        if (kept.Column is null)
        {
            kept.Row.mul_(beta2).add_(square, alpha: 1 - beta2);
            return kept.Row.rsqrt().mul_(gradient);
        }

        kept.Row.mul_(beta2).add_(square.mean([-1]), alpha: 1 - beta2);
        kept.Column.mul_(beta2).add_(square.mean([-2]), alpha: 1 - beta2);
        var rows = kept.Row.div(kept.Row.mean([-1], keepdim: true)).rsqrt_().unsqueeze(-1);
        return rows.mul(kept.Column.unsqueeze(-2).rsqrt()).mul_(gradient);
    }

    private double RateOf(FlatEntry entry, double factor)
    {
        var step = _relative
            ? Math.Min(_warm ? 1e-6 * StepCount : 1e-2, 1 / Math.Sqrt(StepCount))
            : entry.Settings.Rate * factor;
        return _scaled ? step * Math.Max(_scaleFloor, RootMeanSquare(entry.Value).item<float>()) : step;
    }

    private (Tensor Row, Tensor? Column) Squares(IReadOnlyList<long> shape, string name) => shape.Count < 2
        ? (Remember($"exp_avg_sq.{name}", 0, [.. shape]), null)
        : (Remember($"exp_avg_sq_row.{name}", 0, [.. shape.SkipLast(1)]), Remember($"exp_avg_sq_col.{name}", 0, [.. shape.SkipLast(2), shape[^1]]));
}
