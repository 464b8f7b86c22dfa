namespace Peft.Tokenization.Text;

/// <summary>
/// Finds a part of a text in time that grows with both lengths and not with their product, however often the part nearly fits; ordinal.
/// The failure table is that of Knuth, Morris and Pratt (1977).
/// </summary>
internal static class TextSearch
{
    /// <summary>Up to this length the runtime's vectorised search is fast at its worst as well.</summary>
    private const int Short = 32;

    /// <summary>Where a part first stands at or behind <paramref name="start"/>, or -1.</summary>
    public static int First(string text, string part, int start = 0)
    {
        if (part.Length <= Short)
        {
            return text.IndexOf(part, start, StringComparison.Ordinal);
        }

        using var places = All(text, part, start).GetEnumerator();
        return places.MoveNext() ? places.Current : -1;
    }

    /// <summary>Where a part last stands, or -1; an empty one at the end.</summary>
    public static int Last(string text, string part)
    {
        if (part.Length <= Short)
        {
            return part.Length == 0 ? text.Length : text.AsSpan().LastIndexOf(part, StringComparison.Ordinal);
        }

        var at = First(Reversed(text), Reversed(part));
        return at < 0 ? -1 : text.Length - at - part.Length;
    }

    /// <summary>Where a part stands, from left to right, without overlaps.</summary>
    public static IEnumerable<int> All(string text, string part, int start = 0)
    {
        if (part.Length <= Short)
        {
            for (var at = text.IndexOf(part, start, StringComparison.Ordinal); at >= 0; at = text.IndexOf(part, at + part.Length, StringComparison.Ordinal))
            {
                yield return at;
            }

            yield break;
        }

        var failures = Failures(part);
        var matched = 0;
        for (var i = start; i < text.Length; i++)
        {
            while (matched > 0 && text[i] != part[matched])
            {
                matched = failures[matched - 1];
            }

            matched += text[i] == part[matched] ? 1 : 0;
            if (matched == part.Length)
            {
                yield return i + 1 - matched;
                matched = 0;
            }
        }
    }

    /// <summary>Where a part stands, from right to left, without overlaps.</summary>
    public static IEnumerable<int> AllFromRight(string text, string part) =>
        All(Reversed(text), Reversed(part)).Select(at => text.Length - at - part.Length);

    private static int[] Failures(string part)
    {
        var failures = new int[part.Length];
        for (var (i, matched) = (1, 0); i < part.Length; i++)
        {
            while (matched > 0 && part[i] != part[matched])
            {
                matched = failures[matched - 1];
            }

            matched += part[i] == part[matched] ? 1 : 0;
            failures[i] = matched;
        }

        return failures;
    }

    private static string Reversed(string text) => string.Create(text.Length, text, static (span, source) =>
    {
        source.CopyTo(span);
        span.Reverse();
    });
}
