using static TorchSharp.torch;

namespace Peft.Training.Data;

/// <summary>Makes batches of rows of different lengths.</summary>
public static class Collator
{
    /// <summary>Brings rows to one length.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="filler">What to fill with: a padding id, -100 for labels, 0 for a mask.</param>
    /// <param name="left">Whether to fill in front.</param>
    /// <param name="multiple">The length becomes a multiple of it; null is 1.</param>
    /// <returns>The values, row after row, and the length.</returns>
    public static (long[] Values, int Length) Pad(IReadOnlyList<IReadOnlyList<int>> rows, int filler, bool left = false, int? multiple = null)
    {
        ArgumentNullException.ThrowIfNull(rows);
        var length = RoundUp(rows.Count == 0 ? 0 : rows.Max(row => row.Count), multiple);
        var values = new long[rows.Count * length];
        Array.Fill(values, filler);
        for (var r = 0; r < rows.Count; r++)
        {
            var start = (r * length) + (left ? length - rows[r].Count : 0);
            for (var i = 0; i < rows[r].Count; i++)
            {
                values[start + i] = rows[r][i];
            }
        }

        return (values, length);
    }

    /// <summary>A batch of rows that are one example each, filled up to the longest.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="paddingId">The id to fill with.</param>
    /// <param name="device">Where the tensors go.</param>
    /// <param name="left">Whether to fill in front.</param>
    /// <param name="multiple">The length becomes a multiple of it.</param>
    /// <returns>The batch.</returns>
    public static TrainingBatch Padded(IReadOnlyList<TokenRow> rows, int paddingId, Device device, bool left = false, int? multiple = null)
    {
        ArgumentNullException.ThrowIfNull(rows);
        (var ids, var length) = Pad([.. rows.Select(row => row.InputIds)], paddingId, left, multiple);
        (var labels, _) = Pad([.. rows.Select(row => row.Labels)], TrainingExample.Ignored, left, multiple);
        (var mask, _) = Pad([.. rows.Select(row => Enumerable.Repeat(1, row.InputIds.Length).ToArray())], 0, left, multiple);
        long[] shape = [rows.Count, length];
        return new TrainingBatch(Matrix(ids, shape, device), Matrix(labels, shape, device))
        {
            AttentionMask = mask.Contains(0) ? Matrix(mask, shape, device) : null,
            TokenCount = rows.Sum(row => (long)row.InputIds.Length),
            TargetCount = TargetCount(labels, length),
        };
    }

    /// <summary>
    /// A batch without padding: all rows, and all examples in them, one after another in a single row. Positions start again with each
    /// example, none sees another, and the first token of each, which nothing precedes, carries no loss.
    /// </summary>
    /// <param name="rows">The rows.</param>
    /// <param name="paddingId">The id to fill with where <paramref name="multiple"/> asks for it; each such token is an example of its own.</param>
    /// <param name="device">Where the tensors go.</param>
    /// <param name="multiple">The length becomes a multiple of it.</param>
    /// <returns>The batch.</returns>
    public static TrainingBatch Flattened(IReadOnlyList<TokenRow> rows, int paddingId, Device device, int? multiple = null)
    {
        ArgumentNullException.ThrowIfNull(rows);
        List<int> lengths = [.. rows.SelectMany(row => row.Lengths ?? [row.InputIds.Length])];
        int count = lengths.Sum(), length = RoundUp(count, multiple);
        lengths.AddRange(Enumerable.Repeat(1, length - count));
        var padding = new int[length - count];
        Array.Fill(padding, paddingId);
        long[] ids = [.. rows.SelectMany(row => row.InputIds).Concat(padding)];
        long[] labels = [.. rows.SelectMany(row => row.Labels).Concat(Enumerable.Repeat(TrainingExample.Ignored, length - count))];
        var positions = new long[length];
        var start = 0;
        foreach (var example in lengths)
        {
            for (var i = 0; i < example; i++)
            {
                positions[start + i] = i;
            }

            if (example > 0)
            {
                labels[start] = TrainingExample.Ignored;
            }

            start += example;
        }

        long[] shape = [1, length];
        return new TrainingBatch(Matrix(ids, shape, device), Matrix(labels, shape, device))
        {
            Positions = Matrix(positions, shape, device),
            Packing = [lengths],
            TokenCount = count,
            TargetCount = TargetCount(labels, length),
        };
    }

    /// <summary>
    /// A batch of rows with labels. Rows are filled up to the longest; what an encoder-decoder writes and the labels of tokens are filled with -100 on the same side.
    /// </summary>
    /// <param name="examples">The examples, of one kind.</param>
    /// <param name="paddingId">The id to fill with.</param>
    /// <param name="device">Where the tensors go.</param>
    /// <param name="left">Whether to fill in front.</param>
    /// <param name="multiple">Lengths become a multiple of it.</param>
    /// <returns>The batch.</returns>
    public static TrainingBatch Labelled(IReadOnlyList<TrainingExample> examples, int paddingId, Device device, bool left = false, int? multiple = null)
    {
        ArgumentNullException.ThrowIfNull(examples);
        (var ids, var length) = Pad([.. examples.Select(static example => example.InputIds)], paddingId, left, multiple);
        (var mask, _) = Pad([.. examples.Select(static example => Enumerable.Repeat(1, example.InputIds.Length).ToArray())], 0, left, multiple);
        long[] shape = [examples.Count, length];
        (var labels, var targets) = Labels(examples, device, left, multiple, length);
        return new TrainingBatch(Matrix(ids, shape, device), labels)
        {
            AttentionMask = mask.Contains(0) ? Matrix(mask, shape, device) : null,
            TokenTypes = examples.All(static example => example.TokenTypes is null)
                ? null
                : Matrix(Pad([.. examples.Select(static example => example.TokenTypes ?? new int[example.InputIds.Length])], 0, left, multiple).Values, shape, device),
            TaskIds = Tasks(examples, device),
            TokenCount = examples.Sum(static example => (long)example.TokenCount),
            TargetCount = targets,
        };
    }

    /// <summary>The tasks of some examples, int64 [examples]; null where none says its own.</summary>
    internal static Tensor? Tasks(IReadOnlyList<TrainingExample> examples, Device device) => examples.All(static example => example.TaskId is null)
        ? null
        : tensor(examples.Select(static example => (long)(example.TaskId ?? 0)).ToArray(), device: device);

    private static (Tensor Labels, long Targets) Labels(IReadOnlyList<TrainingExample> examples, Device device, bool left, int? multiple, int length)
    {
        if (examples[0].Target is not null)
        {
            var rows = examples.Select(static example => example.Target!).ToArray();
            var (width, count) = (rows[0].Values.Count, rows.Sum(static row => (long)row.Values.Count));
            long[] shape = width == 1 ? [rows.Length] : [rows.Length, width];
            var values = rows.SelectMany(static row => row.Values);
            return Array.TrueForAll(rows, static row => row.IsClass)
                ? (tensor(values.Select(static value => (long)value).ToArray(), shape, ScalarType.Int64, device), count)
                : (tensor(values.Select(static value => (float)value).ToArray(), shape, ScalarType.Float32, device), count);
        }

        if (examples[0].Kind == ExampleKind.Span)
        {
            // Padding in front moves the answer.
            var places = examples.SelectMany(example => example.Labels.Select(label => (long)label + (left ? length - example.InputIds.Length : 0))).ToArray();
            return (Matrix(places, [examples.Count, 2], device), examples.Count);
        }

        (var padded, var own) = Pad([.. examples.Select(static example => example.Labels)], TrainingExample.Ignored, left, multiple);
        return (Matrix(padded, [examples.Count, own], device), padded.LongCount(static label => label != TrainingExample.Ignored));
    }

    private static int RoundUp(int length, int? multiple) => multiple is { } step ? (length + step - 1) / step * step : length;

    private static Tensor Matrix(long[] values, long[] shape, Device device) => tensor(values, shape, ScalarType.Int64, device);

    private static long TargetCount(long[] labels, int length)
    {
        long count = 0;
        for (var i = 0; i < labels.Length; i++)
        {
            count += i % length != 0 && labels[i] != TrainingExample.Ignored ? 1 : 0;
        }

        return count;
    }
}
