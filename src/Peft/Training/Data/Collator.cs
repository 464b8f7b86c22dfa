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
