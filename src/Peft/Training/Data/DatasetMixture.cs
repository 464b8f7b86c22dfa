using System.Globalization;

namespace Peft.Training.Data;

/// <summary>Which rows of several data sets a mixture takes, and in what order.</summary>
internal static class DatasetMixture
{
    /// <summary>Chooses rows.</summary>
    /// <returns>The rows, those of each data set spread evenly.</returns>
    /// <exception cref="PeftException"><c>DatasetSharesInvalid</c> or <c>DatasetKindUnfit</c>.</exception>
    public static (int Part, int Row)[] Choose(IReadOnlyList<TrainingDataset> parts, IReadOnlyList<double>? weights, bool repeats, int seed)
    {
        weights ??= [.. parts.Select(static part => (double)part.Count)];
        if (parts.Count == 0 || weights.Count != parts.Count || weights.Any(static weight => weight is not > 0 || !double.IsFinite(weight)))
        {
            throw new PeftException("DatasetSharesInvalid", $"{parts.Count} data sets can't be mixed by the weights {string.Join(", ", weights.Select(static weight => weight.ToString(CultureInfo.InvariantCulture)))}.")
            {
                Target = weights,
                RecommendedAction = "Give a weight above 0 for each data set, such as 3, 1.",
            };
        }

        var kind = parts[0].Columns.Kind.Examples;
        if (parts.FirstOrDefault(part => !part.Offers(kind)) is { } other)
        {
            throw new PeftException("DatasetKindUnfit", $"'{parts[0].Origin}' holds examples of the kind {kind}, and '{other.Origin}' none.")
            {
                Target = other,
                RecommendedAction = "Mix data sets whose rows serve the same training.",
            };
        }

        // A row of a mixture of this size: the scarcest data set runs out first, or the largest is gone through once.
        double[] fullAt = [.. parts.Select((part, index) => part.Count / weights[index])];
        var scale = repeats ? fullAt.Max() : fullAt.Min();
        return
        [
            .. parts.SelectMany((part, index) => Taken(part.Count, (int)Math.Max(1, Math.Round(scale * weights[index])), seed + index).Select((row, i) => (Part: index, Row: row, At: i)))
                .GroupBy(static entry => entry.Part).SelectMany(static group => group.ToArray() is var rows ? rows.Select(entry => (entry.Part, entry.Row, At: (entry.At + 0.5) / rows.Length)) : [])
                .OrderBy(static entry => entry.At).ThenBy(static entry => entry.Part).Select(static entry => (entry.Part, entry.Row)),
        ];
    }

    /// <summary>Rows of a data set, each as often as another but for one time.</summary>
    private static IEnumerable<int> Taken(int count, int wanted, int seed)
    {
        for (var round = 0; wanted > 0; round++, wanted -= count)
        {
            var order = wanted >= count ? Enumerable.Range(0, count) : DataOrder.Shuffle(count, seed, round).Take(wanted).Order();
            foreach (var row in order)
            {
                yield return row;
            }
        }
    }
}
