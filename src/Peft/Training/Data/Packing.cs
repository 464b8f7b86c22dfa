namespace Peft.Training.Data;

/// <summary>How several short examples share a row.</summary>
public enum PackingStrategy
{
    /// <summary>Each example is a row of its own, padded to the longest of its batch.</summary>
    None,

    /// <summary>Whole examples, longest first, each into the fullest row that still takes it; too long ones are cut. Examples don't see each other.</summary>
    BestFit,

    /// <summary>As <see cref="BestFit"/>, but too long examples are split into several.</summary>
    BestFitSplit,

    /// <summary>All examples one after another, cut into rows of equal length. Examples in a row see the ones before.</summary>
    Wrapped,
}

/// <summary>A row of a batch before it becomes a tensor.</summary>
/// <param name="InputIds">Token ids.</param>
/// <param name="Labels">Labels, -100 where no loss is.</param>
/// <param name="Lengths">The lengths of the examples in the row that don't see each other; null where the row is one.</param>
public sealed record TokenRow(int[] InputIds, int[] Labels, IReadOnlyList<int>? Lengths = null);

/// <summary>Puts short examples together into full rows, as TRL does.</summary>
public static class Packing
{
    /// <summary>Packs examples.</summary>
    /// <param name="examples">The examples.</param>
    /// <param name="length">Maximum length of a row, in tokens.</param>
    /// <param name="strategy">How.</param>
    /// <returns>The rows.</returns>
    public static IReadOnlyList<TokenRow> Pack(IReadOnlyList<TokenRow> examples, int length, PackingStrategy strategy)
    {
        ArgumentNullException.ThrowIfNull(examples);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        return strategy switch
        {
            PackingStrategy.None => examples,
            PackingStrategy.Wrapped => Wrap(examples, length),
            _ => BestFit(Pieces(examples, length, split: strategy == PackingStrategy.BestFitSplit), length),
        };
    }

    private static List<TokenRow> Wrap(IReadOnlyList<TokenRow> examples, int length)
    {
        int[] ids = [.. examples.SelectMany(example => example.InputIds)];
        int[] labels = [.. examples.SelectMany(example => example.Labels)];
        var rows = new List<TokenRow>();
        for (var start = 0; start < ids.Length; start += length)
        {
            var end = Math.Min(ids.Length, start + length);
            rows.Add(new TokenRow(ids[start..end], labels[start..end]));
        }

        return rows;
    }

    /// <summary>Examples no longer than a row; empty ones vanish.</summary>
    private static IEnumerable<TokenRow> Pieces(IReadOnlyList<TokenRow> examples, int length, bool split)
    {
        foreach (var example in examples)
        {
            var count = example.InputIds.Length;
            var last = split ? count : Math.Min(count, length);
            for (var start = 0; start < last; start += length)
            {
                var end = Math.Min(last, start + length);
                yield return new TokenRow(example.InputIds[start..end], example.Labels[start..end]);
            }
        }
    }

    /// <summary>
    /// Best-fit decreasing. Rows with the same space left wait in a queue, so that the one which has had it longest is taken first.
    /// </summary>
    private static List<TokenRow> BestFit(IEnumerable<TokenRow> pieces, int length)
    {
        var rows = new List<List<TokenRow>>();
        var spaces = new SortedSet<int>();
        var waiting = new Dictionary<int, Queue<List<TokenRow>>>();
        foreach (var piece in pieces.OrderByDescending(piece => piece.InputIds.Length))
        {
            var size = piece.InputIds.Length;
            var space = spaces.GetViewBetween(size, int.MaxValue) is { Count: > 0 } fitting ? fitting.Min : length;
            List<TokenRow> row;
            if (waiting.TryGetValue(space, out var queue) && queue.Count > 0)
            {
                row = queue.Dequeue();
                if (queue.Count == 0)
                {
                    spaces.Remove(space);
                }
            }
            else
            {
                row = [];
                rows.Add(row);
            }

            row.Add(piece);
            if (space > size)
            {
                waiting.TryAdd(space - size, new Queue<List<TokenRow>>());
                waiting[space - size].Enqueue(row);
                spaces.Add(space - size);
            }
        }

        return [.. rows.Select(Join)];
    }

    private static TokenRow Join(List<TokenRow> pieces) => new(
        [.. pieces.SelectMany(piece => piece.InputIds)],
        [.. pieces.SelectMany(piece => piece.Labels)],
        [.. pieces.Select(piece => piece.InputIds.Length)]);
}
