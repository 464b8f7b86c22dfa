namespace Peft.Training;

/// <summary>
/// Which rows each micro batch of each optimiser step holds. A pure function of the options and the number of rows,
/// so that the number of the step is the whole position of a training in its data.
/// </summary>
internal sealed class TrainingPlan
{
    private readonly TrainingOptions _options;
    private readonly int[] _rows;
    private readonly int _repeats;
    private int _orderedEpoch = -1;
    private readonly IReadOnlyList<int>? _shapes;
    private int[][] _batches = [];

    /// <summary>Plans a training.</summary>
    /// <param name="options">Batch size, accumulation, epochs, order and seed.</param>
    /// <param name="rows">The rows to train on, as indices of the data.</param>
    /// <param name="repeats">Steps that are made with the same rows.</param>
    /// <param name="shapes">The shape of each row of the data, where those of a batch have to be of one; null otherwise.</param>
    public TrainingPlan(TrainingOptions options, int[] rows, int repeats = 1, IReadOnlyList<int>? shapes = null)
    {
        if (rows.Length == 0)
        {
            throw new PeftException("DatasetEmpty", "There is no row to train on.")
            {
                RecommendedAction = "Give at least one row.",
            };
        }

        _options = options;
        _rows = rows;
        _repeats = repeats;
        _shapes = shapes;
        BatchesPerEpoch = shapes is null ? Divide(rows.Length, options.BatchSize) : rows.GroupBy(Shape).Sum(shape => Divide(shape.Count(), options.BatchSize));
        StepsPerEpoch = Divide(BatchesPerEpoch, options.GradientAccumulation) * repeats;
        var steps = Math.Ceiling(options.Epochs * StepsPerEpoch);
        TotalSteps = options.MaxSteps > 0 ? options.MaxSteps : steps <= int.MaxValue ? (int)steps : throw new PeftException(
            "TrainingOptionInvalid", FormattableString.Invariant($"{options.Epochs} epochs of {StepsPerEpoch} steps are more than {int.MaxValue} steps."))
        {
            Target = "epochs",
            RecommendedAction = "Train for fewer epochs.",
        };
    }

    /// <summary>Rows that are trained on.</summary>
    public IReadOnlyList<int> Rows => _rows;

    /// <summary>Number of rows that are trained on.</summary>
    public int RowCount => _rows.Length;

    /// <summary>Micro batches in an epoch.</summary>
    public int BatchesPerEpoch { get; }

    /// <summary>Optimiser steps in an epoch; the last one takes the micro batches that are left.</summary>
    public int StepsPerEpoch { get; }

    /// <summary>Optimiser steps of the whole training.</summary>
    public int TotalSteps { get; }

    /// <summary>How many epochs are over after a number of steps, as a fraction.</summary>
    public double EpochsAfter(int steps) => (double)steps / StepsPerEpoch;

    /// <summary>Whether an epoch ends with a step, counted from 0.</summary>
    public bool EndsEpoch(int step) => (step + 1) % StepsPerEpoch == 0;

    /// <summary>The rows of each micro batch of a step, counted from 0.</summary>
    public IEnumerable<IReadOnlyList<int>> MicroBatches(int step)
    {
        Order(step / StepsPerEpoch);
        var first = step % StepsPerEpoch / _repeats * _options.GradientAccumulation;
        var end = Math.Min(first + _options.GradientAccumulation, BatchesPerEpoch);
        for (var batch = first; batch < end; batch++)
        {
            yield return _batches[batch];
        }
    }

    /// <summary>Rows in batches of one shape.</summary>
    public static IEnumerable<int[]> OfOneShape(IEnumerable<int> rows, IReadOnlyList<int>? shapes, int size) =>
        shapes is null ? rows.Chunk(size) : rows.GroupBy(row => shapes[row]).SelectMany(shape => shape.Chunk(size));

    /// <summary>Splits rows into those to train on and those to evaluate on, by a shuffle of the seed's; both in the data's order.</summary>
    /// <param name="count">How many rows there are.</param>
    /// <param name="options">The share and the seed.</param>
    /// <param name="groups">Which rows stay together, by the number of their group; null for none.</param>
    public static (int[] Training, int[] Evaluation) Split(int count, TrainingOptions options, int[]? groups = null)
    {
        var held = options.EvaluationSplit > 0 ? (int)Math.Ceiling(count * options.EvaluationSplit) : 0;
        if (held > 0 && held >= count)
        {
            throw new PeftException(
                "EvaluationSplitTooLarge", FormattableString.Invariant($"An evaluation split of {options.EvaluationSplit} leaves none of the {count} rows to train on."))
            {
                Target = "eval_split",
                RecommendedAction = "Set a smaller share apart, or give more rows.",
            };
        }

        if (held == 0)
        {
            return ([.. Enumerable.Range(0, count)], []);
        }

        var shuffled = DataOrder.Shuffle(count, options.Seed, -1);
        if (groups is null)
        {
            return ([.. shuffled[held..].Order()], [.. shuffled[..held].Order()]);
        }

        var apart = HeldOut(shuffled, held, groups);
        return apart.Count < count ? ([.. Enumerable.Range(0, count).Where(row => !apart.Contains(row))], [.. apart.Order()]) : throw new PeftException(
            "EvaluationSplitTooLarge", FormattableString.Invariant($"All {count} rows say nearly the same as those that an evaluation split of {options.EvaluationSplit} sets apart."))
        {
            Target = "eval_split",
            RecommendedAction = "Give rows that differ, or leave the split out.",
        };
    }

    /// <summary>Whole groups, in the order of the shuffle, until there are enough.</summary>
    private static HashSet<int> HeldOut(int[] shuffled, int wanted, int[] groups)
    {
        var members = shuffled.ToLookup(row => groups[row]);
        var apart = new HashSet<int>();
        foreach (var row in shuffled)
        {
            if (apart.Count >= wanted)
            {
                break;
            }

            apart.UnionWith(members[groups[row]]);
        }

        return apart;
    }

    private void Order(int epoch)
    {
        if (epoch == _orderedEpoch)
        {
            return;
        }

        var isShuffled = _options.Sampling is not "sequential";
        var order = isShuffled ? DataOrder.Shuffle(_rows.Length, _options.Seed, epoch).Select(position => _rows[position]) : _rows;
        int[][] batches = [.. OfOneShape(order, _shapes, _options.BatchSize)];

        // Those of one shape stand together; batches of different shapes take turns.
        _batches = [.. isShuffled && _shapes is not null ? DataOrder.Shuffle(batches.Length, ~_options.Seed, epoch).Select(position => batches[position]) : batches];
        _orderedEpoch = epoch;
    }

    private int Shape(int row) => _shapes?[row] ?? 0;

    private static int Divide(int count, int size) => ((count - 1) / size) + 1;
}
