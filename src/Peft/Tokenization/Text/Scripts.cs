using System.Globalization;

namespace Peft.Tokenization.Text;

/// <summary>A Unicode script, numbered; <see cref="Any"/> for white space and what has none.</summary>
internal enum Script
{
    /// <summary>No script of its own.</summary>
    Any = -1,
}

/// <summary>Looks scripts up.</summary>
internal static partial class Scripts
{
    private static readonly Lazy<List<(string Name, List<(int Start, int End)> Ranges)>> s_scripts = new(() =>
        [.. Table.Split(' ').Select(entry => entry.Split('=')).Select(parts => (parts[0], Read(parts[1])))]);

    private static readonly Lazy<(int[] Starts, int[] Ends, int[] Values)> s_sorted = new(() =>
    {
        var all = s_scripts.Value
            .SelectMany((script, index) => script.Ranges.Select(range => (range.Start, range.End, index)))
            .OrderBy(range => range.Start)
            .ToList();
        return ([.. all.Select(range => range.Start)], [.. all.Select(range => range.End)], [.. all.Select(range => range.index)]);
    });

    private static readonly Lazy<HashSet<int>> s_unknown = new(() =>
        [.. Read(UnknownToPeer).SelectMany(range => Enumerable.Range(range.Start, range.End - range.Start))]);

    private static readonly Lazy<Script> s_han = new(() => (Script)s_scripts.Value.FindIndex(script => script.Name == "Han"));

    private static readonly Lazy<HashSet<Script>> s_kana = new(() =>
        [.. s_scripts.Value.Select((script, index) => (script.Name, Index: (Script)index)).Where(script => script.Name is "Hiragana" or "Katakana").Select(script => script.Index)]);

    /// <summary>The script of a code point.</summary>
    public static Script Of(int codePoint)
    {
        var (starts, ends, values) = s_sorted.Value;
        var at = Array.BinarySearch(starts, codePoint);
        at = at < 0 ? ~at - 1 : at;
        return at >= 0 && codePoint < ends[at] ? (Script)values[at] : Script.Any;
    }

    /// <summary>The script that the UnicodeScripts pre-tokenizer takes a code point for: kana count as Han, and a space as anything.</summary>
    public static Script Fixed(int codePoint)
    {
        if (codePoint is ' ' or 0x30FC)
        {
            return codePoint == ' ' ? Script.Any : s_han.Value;
        }

        // The tokenizers library's older table has these elsewhere.
        codePoint = codePoint switch
        {
            0x589 or 0x61C => '!',
            0x953 or 0x954 => 0x955,
            _ => codePoint,
        };

        if (codePoint >= 0x100 && s_unknown.Value.Contains(codePoint))
        {
            return Script.Any;
        }

        var script = Of(codePoint);
        return s_kana.Value.Contains(script) ? s_han.Value : script;
    }

    /// <summary>The ranges of a script by name (in lower case, without underscores), or null.</summary>
    public static IEnumerable<(int Start, int End)>? Ranges(string name) => s_scripts.Value
        .Where(script => script.Name.Replace("_", "", StringComparison.Ordinal).Equals(name, StringComparison.OrdinalIgnoreCase))
        .Select(script => script.Ranges)
        .FirstOrDefault();

    /// <summary>The marks and symbols that are alphabetic.</summary>
    public static IEnumerable<(int Start, int End)> OtherAlphabeticRanges() => Read(OtherAlphabetic);

    /// <summary>Reads <c>41+1A,61+1A</c>: first code points, and how many where it is more than one.</summary>
    public static List<(int Start, int End)> Read(string ranges) => [.. ranges.Split(',').Select(range =>
    {
        var plus = range.IndexOf('+', StringComparison.Ordinal);
        var start = Number(plus < 0 ? range : range[..plus]);
        return (start, start + (plus < 0 ? 1 : Number(range[(plus + 1)..])));
    })];

    private static int Number(string digits) => int.Parse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
}
