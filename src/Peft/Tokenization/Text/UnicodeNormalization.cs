using System.Collections.Concurrent;
using System.Globalization;
using System.Text;

namespace Peft.Tokenization.Text;

/// <summary>The four normalization forms of Unicode (UAX 15), with the origin of every character.</summary>
internal static partial class UnicodeNormalization
{
    private static readonly Dictionary<int, byte> s_classes = CombiningClasses.Split(' ')
        .Select(entry => entry.Split('='))
        .SelectMany(parts => Scripts.Read(parts[1]).SelectMany(range => Enumerable.Range(range.Start, range.End - range.Start))
            .Select(codePoint => (codePoint, Class: byte.Parse(parts[0], CultureInfo.InvariantCulture))))
        .ToDictionary(entry => entry.codePoint, entry => entry.Class);

    private static readonly ConcurrentDictionary<int, int[]> s_canonical = [];
    private static readonly ConcurrentDictionary<int, int[]> s_compatible = [];
    private static readonly ConcurrentDictionary<long, int> s_composites = [];

    /// <summary>Normalizes a text in place.</summary>
    /// <param name="text">The text.</param>
    /// <param name="compatible">Whether compatibility characters are replaced (NFKD, NFKC).</param>
    /// <param name="compose">Whether characters are composed again (NFC, NFKC).</param>
    public static void Apply(NormalizedText text, bool compatible, bool compose)
    {
        if (Ascii.IsValid(text.Text) || IsDone(text.Text, compatible, compose))
        {
            return;
        }

        var items = Decompose(text.Text, compatible);
        if (compose)
        {
            items = Compose(items);
        }

        text.Transform(items);
    }

    private static bool IsDone(string text, bool compatible, bool compose)
    {
        try
        {
            return text.IsNormalized((compatible, compose) switch
            {
                (false, true) => NormalizationForm.FormC,
                (false, false) => NormalizationForm.FormD,
                (true, true) => NormalizationForm.FormKC,
                _ => NormalizationForm.FormKD,
            });
        }
        catch (ArgumentException)
        {
            // .NET refuses lone surrogates and U+FFFE; they are kept as they are.
            return false;
        }
    }

    /// <summary>The decomposed text in canonical order; each further character of a decomposition counts as inserted.</summary>
    private static List<(int CodePoint, int Change)> Decompose(string text, bool compatible)
    {
        var items = new List<(int CodePoint, int Change)>(text.Length + 16);
        var pending = 0;
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            i += length;
            var parts = codePoint < 0x80 ? null : Parts(codePoint, compatible);
            for (var p = 0; p < (parts?.Length ?? 1); p++)
            {
                var part = parts?[p] ?? codePoint;
                if (Class(part) == 0)
                {
                    SortPending();
                    items.Add((part, p > 0 ? 1 : 0));
                    pending = items.Count;
                }
                else
                {
                    items.Add((part, p > 0 ? 1 : 0));
                }
            }
        }

        SortPending();
        return items;

        // A stable sort of the marks since the last starter by their classes.
        void SortPending()
        {
            var count = items.Count - pending;
            if (count > 1)
            {
                var marks = items.GetRange(pending, count).OrderBy(item => Class(item.CodePoint)).ToList();
                items.RemoveRange(pending, count);
                items.AddRange(marks);
            }
        }
    }

    /// <summary>Composes starters with what follows; a composite swallows what it was made of.</summary>
    private static List<(int CodePoint, int Change)> Compose(List<(int CodePoint, int Change)> items)
    {
        var result = new List<(int CodePoint, int Change)>(items.Count);
        var starter = -1;
        var lastClass = -1;
        foreach (var (codePoint, change) in items)
        {
            var combining = Class(codePoint);
            var blocked = starter < 0 || (lastClass >= 0 && (lastClass == 0 || lastClass >= combining));
            if (!blocked && Pair(result[starter].CodePoint, codePoint) is var composite and >= 0)
            {
                result[starter] = (composite, result[starter].Change + change - 1);
                continue;
            }

            result.Add((codePoint, change));
            if (combining == 0)
            {
                starter = result.Count - 1;
                lastClass = -1;
            }
            else
            {
                lastClass = combining;
            }
        }

        return result;
    }

    /// <summary>The composite of two characters, or -1.</summary>
    private static int Pair(int first, int second)
    {
        if (first < 0x80 && second < 0x300)
        {
            return -1;
        }

        return s_composites.GetOrAdd(((long)first << 32) | (uint)second, _ =>
        {
            if (!HasForms(first) || !HasForms(second))
            {
                return -1;
            }

            var composed = (CodePoints.Text(first) + CodePoints.Text(second)).Normalize(NormalizationForm.FormC);
            var codePoint = CodePoints.At(composed, 0, out var length);
            return length == composed.Length && RustUnicodeTables.Decomposes(codePoint) ? codePoint : -1;
        });
    }

    private static int[] Parts(int codePoint, bool compatible) => (compatible ? s_compatible : s_canonical).GetOrAdd(codePoint, value =>
    {
        if (!HasForms(value) || !RustUnicodeTables.Decomposes(value))
        {
            return [value];
        }

        var text = CodePoints.Text(value).Normalize(compatible ? NormalizationForm.FormKD : NormalizationForm.FormD);
        var parts = new List<int>();
        for (var i = 0; i < text.Length;)
        {
            parts.Add(CodePoints.At(text, i, out var length));
            i += length;
        }

        return [.. parts];
    });

    /// <summary>Whether .NET normalizes a code point at all: lone surrogates and U+FFFE it refuses, and they have no other form.</summary>
    private static bool HasForms(int codePoint) => codePoint is not ((>= 0xD800 and <= 0xDFFF) or 0xFFFE);

    private static int Class(int codePoint) => codePoint < 0x300 ? 0 : s_classes.GetValueOrDefault(codePoint);
}
