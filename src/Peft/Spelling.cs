namespace Peft;

/// <summary>What somebody may have meant who misspelt a name.</summary>
public static class Spelling
{
    private const int FewestLetters = 3;

    /// <summary>The first name that begins with what was typed, or else the one that is written most alike, as far as one in three letters may differ.</summary>
    /// <param name="typed">What was typed.</param>
    /// <param name="names">The names there are.</param>
    /// <returns>The name, or null where none is near or nothing is misspelt.</returns>
    public static string? Nearest(string typed, IEnumerable<string> names)
    {
        ArgumentNullException.ThrowIfNull(typed);
        ArgumentNullException.ThrowIfNull(names);
        var limit = Math.Max(1, typed.Length / 3);
        string[] all = [.. names.Distinct(StringComparer.Ordinal)];
        if (all.Contains(typed, StringComparer.Ordinal))
        {
            return null;
        }

        var begun = typed.Length < FewestLetters ? null : Array.Find(all, name => name.StartsWith(typed, StringComparison.OrdinalIgnoreCase));
        return begun ?? all.Select(name => (Name: name, Distance: Distance(typed.ToUpperInvariant(), name.ToUpperInvariant(), limit)))
            .Where(entry => entry.Distance <= limit && entry.Distance < typed.Length).OrderBy(static entry => entry.Distance).Select(static entry => entry.Name).FirstOrDefault();
    }

    /// <summary>A question to put behind a message, with a space in front; empty where no name is near.</summary>
    /// <param name="typed">What was typed.</param>
    /// <param name="names">The names there are.</param>
    public static string DidYouMean(string typed, IEnumerable<string> names) => Nearest(typed, names) is { } name ? $" Did you mean '{name}'?" : "";

    /// <summary>Letters that are added, left out, changed or swapped with their neighbour (optimal string alignment); beyond a limit any larger number.</summary>
    private static int Distance(string one, string other, int limit)
    {
        if (Math.Abs(one.Length - other.Length) > limit)
        {
            return int.MaxValue;
        }

        int[] beforeLast = [], last = [.. Enumerable.Range(0, other.Length + 1)];
        for (var i = 1; i <= one.Length; i++)
        {
            var row = new int[other.Length + 1];
            row[0] = i;
            for (var j = 1; j <= other.Length; j++)
            {
                var cost = one[i - 1] == other[j - 1] ? 0 : 1;
                row[j] = Math.Min(Math.Min(row[j - 1], last[j]) + 1, last[j - 1] + cost);
                if (i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1])
                {
                    row[j] = Math.Min(row[j], beforeLast[j - 2] + 1);
                }
            }

            (beforeLast, last) = (last, row);
        }

        return last[^1];
    }
}
