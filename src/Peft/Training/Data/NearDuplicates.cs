using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace Peft.Training.Data;

/// <summary>
/// Finds rows that say nearly the same: with the same prompt but for case, spaces and punctuation, or with nine tenths of their character sequences
/// in common. Candidates are found by MinHash (Broder 1997) in bands, and compared exactly.
/// </summary>
internal static class NearDuplicates
{
    private const int GramLength = 4, Bands = 8, RowsInBand = 4, FewestGrams = 20;
    private const double Likeness = 0.9;

    /// <summary>Puts rows into groups.</summary>
    /// <param name="dataset">The rows.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <returns>For each row the index of the first row of its group.</returns>
    public static int[] Groups(TrainingDataset dataset, CancellationToken cancellation)
    {
        var groups = new RowGroups(dataset.Count);
        var prompts = new Dictionary<UInt128, int>();
        var buckets = new Dictionary<(int Band, ulong Hash), List<int>>();
        var grams = new HashSet<ulong>[dataset.IsStreamed ? 0 : dataset.Count];
        for (var row = 0; row < dataset.Count; row++)
        {
            cancellation.ThrowIfCancellationRequested();
            var (prompt, whole) = Texts(dataset, dataset.Rows[row]);
            var digest = MemoryMarshal.Read<UInt128>(SHA256.HashData(MemoryMarshal.AsBytes(prompt.AsSpan())));
            if (prompt.Length > 0 && !prompts.TryAdd(digest, row))
            {
                groups.Join(row, prompts[digest]);
            }

            if (dataset.IsStreamed)
            {
                // What is too large for the memory is so in pieces as well: there equal prompts are found alone.
                continue;
            }

            grams[row] = Grams(whole);
            if (grams[row].Count >= FewestGrams)
            {
                JoinAlike(row, grams, buckets, groups);
            }
        }

        return [.. Enumerable.Range(0, dataset.Count).Select(groups.First)];
    }

    private static void JoinAlike(int row, HashSet<ulong>[] grams, Dictionary<(int, ulong), List<int>> buckets, RowGroups groups)
    {
        var signature = Signature(grams[row]);
        for (var band = 0; band < Bands; band++)
        {
            var hash = 14695981039346656037UL;
            foreach (var value in signature.AsSpan(band * RowsInBand, RowsInBand))
            {
                hash = (hash ^ value) * 1099511628211UL;
            }

            if (!buckets.TryGetValue((band, hash), out var others))
            {
                buckets.Add((band, hash), [row]);
            }
            else
            {
                // One of a group stands for it, or a bucket of equal rows would take the square of its size.
                var found = others.FindIndex(other => IsAlike(grams[row], grams[other]));
                if (found >= 0)
                {
                    groups.Join(row, others[found]);
                }
                else
                {
                    others.Add(row);
                }
            }
        }
    }

    private static bool IsAlike(HashSet<ulong> one, HashSet<ulong> other)
    {
        var common = one.Count(other.Contains);
        return common >= Likeness * (one.Count + other.Count - common);
    }

    private static ulong[] Signature(HashSet<ulong> grams)
    {
        var smallest = new ulong[Bands * RowsInBand];
        Array.Fill(smallest, ulong.MaxValue);
        foreach (var gram in grams)
        {
            for (var i = 0; i < smallest.Length; i++)
            {
                smallest[i] = Math.Min(smallest[i], Mix(gram ^ Mix((ulong)i + 1)));
            }
        }

        return smallest;
    }

    /// <summary>SplitMix64's finaliser.</summary>
    private static ulong Mix(ulong value)
    {
        value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9UL;
        value = (value ^ (value >> 27)) * 0x94d049bb133111ebUL;
        return value ^ (value >> 31);
    }

    private static HashSet<ulong> Grams(string text)
    {
        var grams = new HashSet<ulong>();
        for (var i = 0; i + GramLength <= text.Length; i++)
        {
            // Four units of UTF-16 are one number.
            grams.Add(((ulong)text[i] << 48) | ((ulong)text[i + 1] << 32) | ((ulong)text[i + 2] << 16) | text[i + 3]);
        }

        return grams;
    }

    private static (string Prompt, string Whole) Texts(TrainingDataset dataset, TrainingRow row)
    {
        var prompt = new StringBuilder();
        var whole = new StringBuilder();
        foreach (var (name, value) in row.Values)
        {
            Append(whole, value);
            if (name == (dataset.Columns.Prompt ?? dataset.Columns[ColumnRole.Text]) || name == dataset.Columns[ColumnRole.Input])
            {
                Append(prompt, value);
            }
        }

        return (prompt.ToString(), whole.ToString());
    }

    /// <summary>Adds the letters and digits of a value, all the way down.</summary>
    private static void Append(StringBuilder text, object? value)
    {
        switch (value)
        {
            case string words:
                foreach (var letter in words.Where(char.IsLetterOrDigit))
                {
                    text.Append(char.ToUpperInvariant(letter));
                }

                break;
            case IReadOnlyDictionary<string, object?> table:
                foreach (var entry in table.Values)
                {
                    Append(text, entry);
                }

                break;
            case System.Collections.IEnumerable list:
                foreach (var entry in list)
                {
                    Append(text, entry);
                }

                break;
            case IFormattable number:
                text.Append(number.ToString(null, System.Globalization.CultureInfo.InvariantCulture));
                break;
        }
    }

    /// <summary>Rows that are joined into groups.</summary>
    private sealed class RowGroups(int count)
    {
        private readonly int[] _parents = [.. Enumerable.Range(0, count)];

        public int First(int row)
        {
            while (_parents[row] != row)
            {
                row = _parents[row] = _parents[_parents[row]];
            }

            return row;
        }

        public void Join(int one, int other)
        {
            int a = First(one), b = First(other);
            _parents[Math.Max(a, b)] = Math.Min(a, b);
        }
    }
}
