using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// Adafactor (Shazeer and Stern 2018) in transformers' arithmetic: the second moment of a matrix is kept as a row and a column.
/// By default it takes the training's rate (<c>relative_step</c> and <c>scale_parameter</c> false, as transformers' trainer has it).
/// </summary>
internal sealed class Adafactor : Optimizer
{
    private readonly double floor;
    private readonly double scaleFloor;
    private readonly double threshold;
    private readonly double decayRate;
    private readonly double? beta1;
    private readonly bool relative;
    private readonly bool scaled;
    private readonly bool warm;
    private readonly Tensor? mean;
    private readonly (Tensor Row, Tensor? Column)[] squares;
    private double firstRate;

    public Adafactor(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        var own = settings.Own;
        (floor, scaleFloor) = own.Pair("eps") ?? (1e-30, 1e-3);
        threshold = own.Number("clip_threshold") ?? 1;
        decayRate = own.Number("decay_rate") ?? -0.8;
        beta1 = own.Number("beta1");
        relative = own.Flag("relative_step") ?? false;
        scaled = own.Flag("scale_parameter") ?? false;
        warm = own.Flag("warmup_init") ?? false;
        mean = beta1 is null ? null : Remember("exp_avg");
        squares = [.. parameters.Entries.Select(entry => Squares(entry.Trained.Parameter.Shape, entry.Trained.Name))];
        firstRate = settings.Training.LearningRate;
    }

    /// <summary>The rate the schedule gives, or, where Adafactor makes its own, that of the first parameter in the step before.</summary>
    public override IReadOnlyList<double> Rates(double factor) => relative ? [StepCount == 0 ? 0 : firstRate] : base.Rates(factor);

    /// <inheritdoc/>
    protected override void Update(double factor)
    {
        var beta2 = 1 - Math.Pow(StepCount, decayRate);
        for (var i = 0; i < squares.Length; i++)
        {
            using var scope = NewDisposeScope();
            var entry = Parameters.Entries[i];
            var rate = RateOf(entry, factor);
            firstRate = i == 0 ? rate : firstRate;
            var update = Scaled(entry.Gradient, squares[i], beta2);
            update.div_(RootMeanSquare(update).div_(threshold).clamp_(min: 1)).mul_(rate);
            if (mean is not null)
            {
                var kept = mean.narrow(0, entry.Offset, update.numel()).view(update.shape);
                update = kept.mul_(beta1!.Value).add_(update, alpha: 1 - beta1.Value);
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
        var square = gradient.mul(gradient).add_(floor);
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
        var step = relative
            ? Math.Min(warm ? 1e-6 * StepCount : 1e-2, 1 / Math.Sqrt(StepCount))
            : entry.Settings.Rate * factor;
        return scaled ? step * Math.Max(scaleFloor, RootMeanSquare(entry.Value).item<float>()) : step;
    }

    private (Tensor Row, Tensor? Column) Squares(IReadOnlyList<long> shape, string name) => shape.Count < 2
        ? (Remember($"exp_avg_sq.{name}", 0, [.. shape]), null)
        : (Remember($"exp_avg_sq_row.{name}", 0, [.. shape.SkipLast(1)]), Remember($"exp_avg_sq_col.{name}", 0, [.. shape.SkipLast(2), shape[^1]]));
}
