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

    /// <summary>All examples one after another, cut into rows of equal length. As TRL has it, examples in a row see the ones before; a training keeps them apart (<see cref="TokenizationOptions.KeepsApart"/>).</summary>
    Wrapped,
}

/// <summary>A row of a batch before it becomes a tensor.</summary>
/// <param name="InputIds">Token ids.</param>
/// <param name="Labels">Labels, -100 where no loss is.</param>
/// <param name="Lengths">The lengths of the examples in the row that don't see each other; null where the row is one.</param>
public sealed record TokenRow(int[] InputIds, int[] Labels, IReadOnlyList<int>? Lengths = null);

/// <summary>A stretch of an example in a packed row.</summary>
/// <param name="Example">The example's number.</param>
/// <param name="Start">Its first token.</param>
/// <param name="End">Behind its last token.</param>
internal readonly record struct PackedPiece(int Example, int Start, int End)
{
    /// <summary>The number of its tokens.</summary>
    public int Length => End - Start;
}

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
        return strategy == PackingStrategy.None
            ? examples
            : [.. Plan([.. examples.Select(static example => example.InputIds.Length)], length, strategy).Select(row => Join(row, index => examples[index], keepsApart: strategy != PackingStrategy.Wrapped))];
    }

    /// <summary>Says which stretches of which examples stand in which row.</summary>
    /// <param name="lengths">The examples' lengths, in tokens.</param>
    /// <param name="length">Maximum length of a row, in tokens.</param>
    /// <param name="strategy">How.</param>
    internal static List<PackedPiece[]> Plan(IReadOnlyList<int> lengths, int length, PackingStrategy strategy)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        return strategy == PackingStrategy.Wrapped ? Wrap(lengths, length) : BestFit(Pieces(lengths, length, split: strategy == PackingStrategy.BestFitSplit), length);
    }

    /// <summary>Makes a row of its pieces.</summary>
    /// <param name="pieces">The pieces in order.</param>
    /// <param name="row">Gives an example by its number.</param>
    /// <param name="keepsApart">Whether the examples in it don't see each other.</param>
    internal static TokenRow Join(PackedPiece[] pieces, Func<int, TokenRow> row, bool keepsApart)
    {
        var length = pieces.Sum(static piece => piece.Length);
        int[] ids = new int[length], labels = new int[length];
        var at = 0;
        foreach (var piece in pieces)
        {
            var example = row(piece.Example);
            example.InputIds.AsSpan(piece.Start, piece.Length).CopyTo(ids.AsSpan(at));
            example.Labels.AsSpan(piece.Start, piece.Length).CopyTo(labels.AsSpan(at));
            at += piece.Length;
        }

        return new TokenRow(ids, labels, keepsApart ? [.. pieces.Select(static piece => piece.Length)] : null);
    }

    private static List<PackedPiece[]> Wrap(IReadOnlyList<int> lengths, int length)
    {
        var rows = new List<PackedPiece[]>();
        var row = new List<PackedPiece>();
        var space = length;
        for (var example = 0; example < lengths.Count; example++)
        {
            for (var start = 0; start < lengths[example];)
            {
                var end = Math.Min(lengths[example], start + space);
                row.Add(new PackedPiece(example, start, end));
                space -= end - start;
                start = end;
                if (space == 0)
                {
                    rows.Add([.. row]);
                    row.Clear();
                    space = length;
                }
            }
        }

        if (row.Count > 0)
        {
            rows.Add([.. row]);
        }

        return rows;
    }

    /// <summary>Examples no longer than a row; empty ones vanish.</summary>
    private static IEnumerable<PackedPiece> Pieces(IReadOnlyList<int> lengths, int length, bool split)
    {
        for (var example = 0; example < lengths.Count; example++)
        {
            var last = split ? lengths[example] : Math.Min(lengths[example], length);
            for (var start = 0; start < last; start += length)
            {
                yield return new PackedPiece(example, start, Math.Min(last, start + length));
            }
        }
    }

    /// <summary>
    /// Best-fit decreasing. Rows with the same space left wait in a queue, so that the one which has had it longest is taken first.
    /// </summary>
    private static List<PackedPiece[]> BestFit(IEnumerable<PackedPiece> pieces, int length)
    {
        var rows = new List<List<PackedPiece>>();
        var spaces = new SortedSet<int>();
        var waiting = new Dictionary<int, Queue<List<PackedPiece>>>();
        foreach (var piece in pieces.OrderByDescending(static piece => piece.Length))
        {
            var size = piece.Length;
            var space = spaces.GetViewBetween(size, int.MaxValue) is { Count: > 0 } fitting ? fitting.Min : length;
            List<PackedPiece> row;
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
                waiting.TryAdd(space - size, new Queue<List<PackedPiece>>());
                waiting[space - size].Enqueue(row);
                spaces.Add(space - size);
            }
        }

        return [.. rows.Select(static row => row.ToArray())];
    }
}
