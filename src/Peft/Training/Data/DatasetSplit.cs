using System.Globalization;

namespace Peft.Training.Data;

/// <summary>Cuts a data set into parts, such as one to learn and one to be judged by.</summary>
public static class DatasetSplit
{
    /// <summary>Cuts by shares. What belongs together stays in one part, so that a part has its share only nearly where groups are large.</summary>
    /// <param name="dataset">The data set.</param>
    /// <param name="shares">Shares above 0 that make at most 1 together; what is left is one more part.</param>
    /// <param name="seed">Another one gives other parts.</param>
    /// <param name="groupColumn">A column whose equal values stay together; null for rows that say nearly the same (<paramref name="keepsDuplicates"/>).</param>
    /// <param name="keepsDuplicates">Whether rows that say nearly the same may be on both sides.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <returns>The parts, their rows in the order of the data set.</returns>
    /// <exception cref="PeftException"><c>DatasetSharesInvalid</c>, <c>DatasetColumnMissing</c> or <c>DatasetPartEmpty</c>.</exception>
    public static IReadOnlyList<TrainingDataset> ByShare(
        TrainingDataset dataset, IReadOnlyList<double> shares, int seed = 0, string? groupColumn = null, bool keepsDuplicates = false, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(dataset);
        ArgumentNullException.ThrowIfNull(shares);
        const double Rounding = 1e-9;
        var rest = 1 - shares.Sum();
        if (shares.Count == 0 || shares.Any(static share => share is not (> 0 and <= 1)) || rest < -Rounding)
        {
            throw new PeftException("DatasetSharesInvalid", $"{string.Join(", ", shares.Select(static share => share.ToString(CultureInfo.InvariantCulture)))} are no shares of a whole.")
            {
                Target = shares,
                RecommendedAction = "Give shares above 0 that make at most 1 together, such as 0.9 or 0.8, 0.1, 0.1.",
            };
        }

        double[] all = rest > Rounding ? [.. shares, rest] : [.. shares];
        var groups = groupColumn is not null ? GroupsOf(dataset, groupColumn)
            : keepsDuplicates ? [.. Enumerable.Range(0, dataset.Count)]
            : NearDuplicates.Groups(dataset, cancellation);
        var parts = Assign(groups, all, seed);
        return [.. all.Select((share, part) => Part(dataset, Enumerable.Range(0, dataset.Count).Where(row => parts[row] == part), share.ToString("P0", CultureInfo.InvariantCulture)))];
    }

    /// <summary>A part for each value of a column, in the order in which they come.</summary>
    /// <param name="dataset">The data set.</param>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetColumnMissing</c>.</exception>
    public static IReadOnlyList<TrainingDataset> ByColumn(TrainingDataset dataset, string column)
    {
        ArgumentNullException.ThrowIfNull(dataset);
        var groups = GroupsOf(dataset, column);
        return [.. Enumerable.Range(0, dataset.Count).GroupBy(row => groups[row]).Select(part => Part(dataset, part, $"{column} {ValueOf(dataset.Rows[part.Key], NameOf(dataset, column))}"))];
    }

    private static int[] Assign(int[] groups, double[] shares, int seed)
    {
        int[][] shuffled = [.. Enumerable.Range(0, groups.Length).GroupBy(row => groups[row]).Select(static group => group.ToArray())];
#pragma warning disable CA5394 // Repeatable, not secret.
        new Random(seed).Shuffle(shuffled);
#pragma warning restore CA5394
        var parts = new int[groups.Length];
        double[] missing = [.. shares.Select(share => share * groups.Length)];

        // The largest groups first, each to the part that lacks the most.
        foreach (var group in shuffled.OrderByDescending(static group => group.Length))
        {
            var part = Array.IndexOf(missing, missing.Max());
            missing[part] -= group.Length;
            foreach (var row in group)
            {
                parts[row] = part;
            }
        }

        return parts;
    }

    private static TrainingDataset Part(TrainingDataset dataset, IEnumerable<int> rows, string name)
    {
        int[] chosen = [.. rows];
        return chosen.Length > 0 ? dataset.WithRows(chosen, $"{dataset.Origin} ({name})") : throw new PeftException(
            "DatasetPartEmpty", string.Create(CultureInfo.InvariantCulture, $"Of the {dataset.Count} rows of '{dataset.Origin}' none is left for the part of {name}."))
        {
            Target = dataset,
            RecommendedAction = "Give a larger share, more rows, or let rows that say nearly the same be on both sides.",
        };
    }

    private static int[] GroupsOf(TrainingDataset dataset, string column)
    {
        var name = NameOf(dataset, column);
        var firsts = new Dictionary<string, int>(StringComparer.Ordinal);
        return [.. dataset.Rows.Select((row, index) => firsts.TryAdd(ValueOf(row, name), index) ? index : firsts[ValueOf(row, name)])];
    }

    private static string NameOf(TrainingDataset dataset, string column) => dataset.ColumnNames.FirstOrDefault(name => name == column)
        ?? dataset.ColumnNames.FirstOrDefault(name => name.Equals(column, StringComparison.OrdinalIgnoreCase))
        ?? throw new PeftException("DatasetColumnMissing", $"'{dataset.Origin}' has no column '{column}'. Its columns: {string.Join(", ", dataset.ColumnNames)}.")
        {
            Target = column,
            RecommendedAction = "Name one of the columns there are.",
        };

    private static string ValueOf(TrainingRow row, string column) => row.OptionalText(column);
}
