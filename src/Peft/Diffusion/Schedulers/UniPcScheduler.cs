using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// A unified predictor and corrector (Zhao et al. 2023): a step predicts with the outputs of earlier calls, and the next call's output corrects it, at no further call.
/// </summary>
public sealed class UniPcScheduler : LogSnrScheduler
{
    private readonly bool _predictsOriginal;
    private readonly bool _isFirstKind;
    private readonly HashSet<int> _uncorrected;
    private readonly TensorHistory _start = new(1);
    private int _order;

    internal UniPcScheduler(SchedulerConfig config)
        : base(config)
    {
        _predictsOriginal = config.Flag("predict_x0", true);
        _isFirstKind = config.Word("solver_type", "bh2") == "bh1";
        _uncorrected = [.. (config.Numbers("disable_corrector") ?? []).Select(static index => (int)index)];
    }

    private protected override double Last(double? curve) => curve is { } cleanest && Config.Word("final_sigmas_type", "zero") == "sigma_min" ? cleanest : base.Last(curve);

    private protected override void Reset()
    {
        base.Reset();
        _start.Clear();
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = _predictsOriginal ? Original(output, sample) : null;
        var predicted = original ?? Epsilon(output, sample);
        if (_start.Count > 0 && !_uncorrected.Contains(Index - 1))
        {
            sample = Move(_start[0], Index - 1, _order, predicted);
        }

        Outputs.Add(predicted);
        _order = Math.Min(Outputs.Count, EndsLower ? Math.Min(Order, Timesteps.Count - Index) : Order);
        _start.Add(sample);
        return new(Move(sample, Index, _order, null), original);
    }

    /// <summary>The step from a level to the next one.</summary>
    /// <param name="sample">The sample there.</param>
    /// <param name="index">The level.</param>
    /// <param name="order">How many outputs are used, up to the level's own, which is the newest.</param>
    /// <param name="reached">The output at the next level, which corrects; null to predict.</param>
    private Tensor Move(Tensor sample, int index, int order, Tensor? reached)
    {
        var (from, to) = (Level(index), Level(index + 1));
        var h = to.Lambda - from.Lambda;
        var (factor, scale, g) = _predictsOriginal ? (to.Sigma / from.Sigma, to.Alpha, -h) : (to.Alpha / from.Alpha, to.Sigma, h);
        var growth = Math.Exp(g) - 1;
        var next = Terms.Sum((factor, sample), (-scale * growth, Outputs[0]));
        var distances = Enumerable.Range(1, order - 1).Select(age => (Level(index - age).Lambda - from.Lambda) / h).ToList();
        if (reached is not null)
        {
            distances.Add(1);
        }

        if (distances.Count == 0)
        {
            return next;
        }

        var base1 = _isFirstKind ? g : growth;
        var weights = Weights(distances, g, base1, corrects: reached is not null);
        for (var i = 0; i < distances.Count; i++)
        {
            var difference = (i < order - 1 ? Outputs[i + 1] : reached!).sub(Outputs[0]);
            next = next.add(difference, -scale * base1 * weights[i] / distances[i]);
        }

        return next;
    }

    // The system R ρ = b of the paper's equation 10: ρ makes the step exact for polynomials of the order. The lowest orders have 1/2, as the authors do.
    private static double[] Weights(IReadOnlyList<double> distances, double g, double base1, bool corrects)
    {
        var count = distances.Count;
        if (count == 1)
        {
            return [0.5];
        }

        var rows = new double[count][];
        var phi = ((Math.Exp(g) - 1) / g) - 1;
        var factorial = 1.0;
        for (var i = 0; i < count; i++)
        {
            rows[i] = [.. distances.Select(distance => Math.Pow(distance, i)), phi * factorial / base1];
            factorial *= i + 2;
            phi = (phi / g) - (1 / factorial);
        }

        return Solve(rows);
    }

    // Gauss' elimination with pivots; up to three unknowns.
    private static double[] Solve(double[][] rows)
    {
        var count = rows.Length;
        for (var column = 0; column < count; column++)
        {
            var pivot = Enumerable.Range(column, count - column).MaxBy(row => Math.Abs(rows[row][column]));
            (rows[column], rows[pivot]) = (rows[pivot], rows[column]);
            for (var row = 0; row < count; row++)
            {
                var share = row == column ? 0 : rows[row][column] / rows[column][column];
                rows[row] = [.. rows[row].Zip(rows[column], (value, other) => value - (share * other))];
            }
        }

        return [.. rows.Select((row, i) => row[count] / row[i])];
    }
}
