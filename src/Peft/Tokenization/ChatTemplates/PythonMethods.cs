using System.Globalization;
using System.Numerics;
using System.Text;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>The methods that Python's texts, lists, dictionaries and numbers have.</summary>
internal static class PythonMethods
{
    private static readonly Dictionary<string, Func<string, CallArguments, TemplateRun, object?>> s_text = new(StringComparer.Ordinal)
    {
        ["strip"] = (s, a, _) => Strip(s, a, true, true),
        ["lstrip"] = (s, a, _) => Strip(s, a, true, false),
        ["rstrip"] = (s, a, _) => Strip(s, a, false, true),
        ["upper"] = (s, _, _) => Casing.Upper(s),
        ["lower"] = (s, _, _) => Casing.Lower(s),
        ["casefold"] = (s, _, _) => Casing.Fold(s),
        ["title"] = (s, _, _) => Casing.Title(s),
        ["capitalize"] = (s, _, _) => Casing.Capitalize(s),
        ["swapcase"] = (s, _, _) => string.Concat(PythonText.Characters(s).Select(c => Casing.Lower((string)c!) == (string)c! ? Casing.Upper((string)c!) : Casing.Lower((string)c!))),
        ["split"] = (s, a, run) => Split(s, a, run, fromRight: false),
        ["rsplit"] = (s, a, run) => Split(s, a, run, fromRight: true),
        ["splitlines"] = (s, a, _) => SplitLines(s, a.Flag(0, "keepends")),
        ["startswith"] = (s, a, run) => Affix(s, a, run, (text, part) => text.StartsWith(part, StringComparison.Ordinal)),
        ["endswith"] = (s, a, run) => Affix(s, a, run, (text, part) => text.EndsWith(part, StringComparison.Ordinal)),
        ["replace"] = (s, a, _) => Replace(s, a.RequiredText(0, "old"), a.RequiredText(1, "new"), a.Integer(2, "count", -1)),
        ["find"] = (s, a, _) => Find(s, a, last: false) ?? BigInteger.MinusOne,
        ["rfind"] = (s, a, _) => Find(s, a, last: true) ?? BigInteger.MinusOne,
        ["index"] = (s, a, _) => Find(s, a, last: false) ?? throw TemplateErrors.Type("substring not found"),
        ["rindex"] = (s, a, _) => Find(s, a, last: true) ?? throw TemplateErrors.Type("substring not found"),
        ["count"] = (s, a, _) => Part(s, a, 1, out var _) is { } part ? Count(part, a.RequiredText(0, "sub")) : BigInteger.Zero,
        ["join"] = (s, a, run) => Join(s, a.Required(0, "iterable"), run),
        ["format"] = (s, a, run) => PythonFormat.Braces(s, a, run),
        ["partition"] = (s, a, _) => Partition(s, a.RequiredText(0, "sep"), last: false),
        ["rpartition"] = (s, a, _) => Partition(s, a.RequiredText(0, "sep"), last: true),
        ["removeprefix"] = (s, a, _) => a.Text(0, "prefix") is { } p && s.StartsWith(p, StringComparison.Ordinal) ? s[p.Length..] : s,
        ["removesuffix"] = (s, a, _) => a.Text(0, "suffix") is { Length: > 0 } p && s.EndsWith(p, StringComparison.Ordinal) ? s[..^p.Length] : s,
        ["zfill"] = (s, a, _) => ZeroFill(s, Width(a)),
        ["center"] = (s, a, _) => Center(s, Width(a), (a.Text(1, "fillchar", " ") ?? throw TemplateErrors.Type("must be str, not NoneType"))),
        ["ljust"] = (s, a, _) => s + Fill((a.Text(1, "fillchar", " ") ?? throw TemplateErrors.Type("must be str, not NoneType")), Width(a) - PythonText.Length(s)),
        ["rjust"] = (s, a, _) => Fill((a.Text(1, "fillchar", " ") ?? throw TemplateErrors.Type("must be str, not NoneType")), Width(a) - PythonText.Length(s)) + s,
        ["expandtabs"] = (s, a, _) => ExpandTabs(s, a.Integer(0, "tabsize", 8)),
        ["isdigit"] = (s, _, _) => All(s, c => CharUnicodeInfo.GetDigitValue(CodePoints.Text(c), 0) >= 0),
        ["isdecimal"] = (s, _, _) => All(s, c => CharacterClass.Category(c) == UnicodeCategory.DecimalDigitNumber),
        ["isnumeric"] = (s, _, _) => All(s, CharacterClass.IsNumeric),
        ["isalpha"] = (s, _, _) => All(s, c => CharacterClass.Category(c) <= UnicodeCategory.OtherLetter),
        ["isalnum"] = (s, _, _) => All(s, c => CharacterClass.Category(c) <= UnicodeCategory.OtherLetter || CharacterClass.IsNumeric(c)),
        ["isspace"] = (s, _, _) => All(s, c => CharacterClass.IsWhiteSpace(c) || c is >= 0x1C and <= 0x1F),
        ["isupper"] = (s, _, _) => Casing.IsUpper(s),
        ["islower"] = (s, _, _) => Casing.IsLower(s),
        ["istitle"] = (s, _, _) => Casing.HasCase(s) && Casing.Title(s) == s,
        ["isascii"] = (s, _, _) => Ascii.IsValid(s),
        ["isidentifier"] = (s, _, _) => All(s, PythonText.IsPartOfName) && !PythonText.IsPartOfNameOnly(CodePoints.At(s, 0, out var _)),
        ["isprintable"] = (s, _, _) => s.Length == 0 || All(s, PythonText.IsPrintable),
        ["encode"] = (_, _, _) => throw TemplateErrors.Unsafe("Chat templates have no use for bytes."),
        ["translate"] = (_, _, _) => throw TemplateErrors.Unsafe("str.translate isn't available in chat templates."),
        ["maketrans"] = (_, _, _) => throw TemplateErrors.Unsafe("str.maketrans isn't available in chat templates."),
        ["format_map"] = (s, a, run) => PythonFormat.Braces(s, new CallArguments([],
            [.. (a.Required(0, "mapping") as TemplateObject ?? throw TemplateErrors.Type("a mapping is required")).Select(e => new KeyValuePair<string, object?>(PythonText.Str(e.Key, run), e.Value))]), run),
    };

    /// <summary>A method of a text, or null.</summary>
    public static TemplateFunction? OfText(string text, string name) => s_text.TryGetValue(name, out var method)
        ? new TemplateFunction(name, (arguments, run) =>
        {
            run.Read(text);
            return method(text, arguments, run);
        })
        : null;

    /// <summary>A method of a dictionary that doesn't change it, or null.</summary>
    public static TemplateFunction? OfDictionary(TemplateObject entries, string name) => name switch
    {
        "get" => new TemplateFunction(name, (a, _) => entries.TryGet(a.Required(0, "key"), out var value) ? value : a.Get(1, "default")),
        "keys" or "values" or "items" => new TemplateFunction(name, (_, _) => new TemplateView(name, entries)),
        "copy" => new TemplateFunction(name, (_, _) =>
        {
            var copy = new TemplateObject();
            foreach (var (key, value) in entries)
            {
                copy.Set(key, value);
            }

            return copy;
        }),
        "fromkeys" => new TemplateFunction(name, FromKeys),
        _ => null,
    };

    /// <summary>A method of a list or tuple that doesn't change it, or null.</summary>
    public static TemplateFunction? OfList(object value, string name) => name switch
    {
        "index" => new TemplateFunction(name, (a, run) =>
        {
            var at = TemplateOperations.Iterate(value, run).ToList().FindIndex(item => TemplateOperations.AreEqual(item, a.Required(0, "value"), run));
            return at >= 0 ? new BigInteger(at) : throw TemplateErrors.Type("the value is not in list");
        }),
        "count" => new TemplateFunction(name, (a, run) =>
            new BigInteger(TemplateOperations.Iterate(value, run).Count(item => TemplateOperations.AreEqual(item, a.Required(0, "value"), run)))),
        "copy" when value is List<object?> list => new TemplateFunction(name, (_, _) => list.ToList()),
        _ => null,
    };

    /// <summary>A member of a number, or null.</summary>
    public static object? OfNumber(object value, string name) => name switch
    {
        "real" or "numerator" when value is not double => TemplateOperations.Number(value),
        "real" => value,
        "imag" => value is double ? 0.0 : BigInteger.Zero,
        "bit_length" when value is BigInteger number => new TemplateFunction(name, (_, _) => new BigInteger(BigInteger.Abs(number).GetBitLength())),
        "is_integer" => new TemplateFunction(name, (_, _) => value is not double real || Math.Floor(real) == real),
        "denominator" when value is not double => BigInteger.One,
        _ => null,
    };

    /// <summary><c>dict.fromkeys</c></summary>
    public static object? FromKeys(CallArguments arguments, TemplateRun run)
    {
        var result = new TemplateObject();
        foreach (var key in TemplateOperations.Iterate(arguments.Required(0, "iterable"), run))
        {
            result.Set(key, arguments.Get(1, "value"));
        }

        return result;
    }

    /// <summary>Replaces up to <paramref name="count"/> occurrences; all where it is negative.</summary>
    public static string Replace(string text, string old, string with, int count)
    {
        if (count < 0)
        {
            count = int.MaxValue;
        }

        var found = (long)Math.Min(count, old.Length == 0 ? text.Length + 1 : CountOf(text, old));
        TemplateRun.CheckText(text.Length + (found * with.Length));
        var builder = new StringBuilder();
        var at = 0;
        foreach (var next in (old.Length == 0 ? Boundaries(text) : TextSearch.All(text, old)).Take(count))
        {
            builder.Append(text, at, next - at).Append(with);
            at = next + old.Length;
        }

        return builder.Append(text, at, text.Length - at).ToString();
    }

    /// <summary>Puts a text in the middle; of an odd number of blanks the extra one goes where Python puts it.</summary>
    public static string Center(string text, int width, string fill)
    {
        var missing = width - PythonText.Length(text);
        if (missing <= 0)
        {
            return text;
        }

        var left = (missing / 2) + (missing & width & 1);
        return Fill(fill, left) + text + Fill(fill, missing - left);
    }

    /// <summary>Joins texts.</summary>
    public static string Join(string separator, object? items, TemplateRun run)
    {
        var builder = new StringBuilder();
        var index = 0;
        foreach (var item in TemplateOperations.Iterate(items, run))
        {
            builder.Append(index > 0 ? separator : "").Append(item switch
            {
                string text => text,
                TemplateMarkup markup => markup.Text,
                TemplateUndefined undefined => throw undefined.Error(),
                _ => throw TemplateErrors.Type($"sequence item {index}: expected str instance, {TemplateValue.TypeName(item)} found"),
            });
            index++;
            TemplateRun.CheckText(builder.Length);
        }

        return builder.ToString();
    }

    /// <summary>Strips white space, or any of the given characters.</summary>
    public static string Strip(string text, string? characters, bool left, bool right)
    {
        var set = characters is null ? null : PythonText.ToCodePoints(characters).ToHashSet();
        var (start, end) = (0, text.Length);
        while (left && start < end && Goes(CodePoints.At(text, start, out var length)))
        {
            start += length;
        }

        while (right && end > start && Goes(CodePoints.Before(text, end, out var length)))
        {
            end -= length;
        }

        return text[start..end];

        bool Goes(int codePoint) => set?.Contains(codePoint) ?? (CharacterClass.IsWhiteSpace(codePoint) || codePoint is >= 0x1C and <= 0x1F);
    }

    private static string Strip(string text, CallArguments arguments, bool left, bool right) => Strip(text, arguments.Text(0, "chars"), left, right);

    private static int Width(CallArguments arguments)
    {
        var width = TemplateOperations.Int32(arguments.Required(0, "width"));
        TemplateRun.CheckText(width);
        return width;
    }

    private static string Fill(string fill, int count) => PythonText.Length(fill) != 1
        ? throw TemplateErrors.Type("The fill character must be exactly one character long")
        : count <= 0 ? "" : string.Concat(Enumerable.Repeat(fill, count));

    private static string ZeroFill(string text, int width)
    {
        var sign = text.StartsWith('-') || text.StartsWith('+') ? 1 : 0;
        return text[..sign] + Fill("0", width - PythonText.Length(text)) + text[sign..];
    }

    private static string ExpandTabs(string text, int size)
    {
        TemplateRun.CheckText((long)CountOf(text, "\t") * Math.Max(size, 0));
        var builder = new StringBuilder();
        var column = 0;
        foreach (var character in text)
        {
            if (character != '\t')
            {
                builder.Append(character);
                column = character is '\n' or '\r' ? 0 : column + 1;
            }
            else if (size > 0)
            {
                builder.Append(' ', size - (column % size));
                column += size - (column % size);
            }
        }

        return builder.ToString();
    }

    private static List<object?> Split(string text, CallArguments arguments, TemplateRun run, bool fromRight)
    {
        var separator = arguments.Text(0, "sep");
        var most = arguments.Integer(1, "maxsplit", -1);
        if (separator is { Length: 0 })
        {
            throw TemplateErrors.Type("empty separator");
        }

        return separator is null ? SplitAtBlanks(text, most, fromRight) : SplitAt(text, separator, most, fromRight);
    }

    private static List<object?> SplitAt(string text, string separator, int most, bool fromRight)
    {
        var places = (fromRight ? TextSearch.AllFromRight(text, separator) : TextSearch.All(text, separator)).Take(most < 0 ? int.MaxValue : most).ToList();
        if (fromRight)
        {
            places.Reverse();
        }

        var parts = new List<object?>();
        var at = 0;
        foreach (var place in places)
        {
            parts.Add(text[at..place]);
            at = place + separator.Length;
        }

        parts.Add(text[at..]);
        return parts;
    }

    /// <summary>Splitting at blanks, which make no empty parts; with a limit the rest keeps its blanks but those next to the cut and at the other end.</summary>
    private static List<object?> SplitAtBlanks(string text, int most, bool fromRight)
    {
        var blanks = Blanks(text);
        var (start, end) = (0, text.Length);
        if (blanks is [(0, var whole)] && whole == text.Length)
        {
            return [];
        }

        if (blanks is [(0, var first), ..])
        {
            start = first;
            blanks.RemoveAt(0);
        }

        if (blanks is [.., var last] && last.End == text.Length)
        {
            end = last.Start;
            blanks.RemoveAt(blanks.Count - 1);
        }

        // With a limit the rest keeps the blanks at its far end: behind the text, or from the right before it.
        var limited = most >= 0 && blanks.Count >= most;
        var cuts = !limited ? blanks : fromRight ? blanks[^most..] : blanks[..most];
        (start, end) = (limited && fromRight ? 0 : start, limited && !fromRight ? text.Length : end);
        var parts = new List<object?>();
        foreach (var (from, to) in cuts)
        {
            parts.Add(text[start..from]);
            start = to;
        }

        if (start < end)
        {
            parts.Add(text[start..end]);
        }

        return parts;
    }

    private static List<(int Start, int End)> Blanks(string text)
    {
        var spans = new List<(int Start, int End)>();
        for (var i = 0; i < text.Length; i++)
        {
            if (!IsBlank(text[i]))
            {
                continue;
            }

            var start = i;
            while (i < text.Length && IsBlank(text[i]))
            {
                i++;
            }

            spans.Add((start, i));
        }

        return spans;

        static bool IsBlank(char unit) => char.IsWhiteSpace(unit) || unit is >= '\x1C' and <= '\x1F';
    }

    /// <summary>The lines of a text.</summary>
    public static List<object?> SplitLines(string text, bool keepEnds)
    {
        var lines = new List<object?>();
        var start = 0;
        for (var i = 0; i < text.Length; i++)
        {
            if (text[i] is not ('\n' or '\r' or '\v' or '\f' or '\x1C' or '\x1D' or '\x1E' or '\x85' or '\u2028' or '\u2029'))
            {
                continue;
            }

            var end = text[i] == '\r' && i + 1 < text.Length && text[i + 1] == '\n' ? i + 2 : i + 1;
            lines.Add(text[start..(keepEnds ? end : i)]);
            start = end;
            i = end - 1;
        }

        if (start < text.Length)
        {
            lines.Add(text[start..]);
        }

        return lines;
    }

    private static bool Affix(string text, CallArguments arguments, TemplateRun run, Func<string, string, bool> test)
    {
        var part = Part(text, arguments, 1, out _);
        return arguments.Required(0, "prefix") switch
        {
            string one => part is not null && test(part, one),
            TemplateMarkup markup => part is not null && test(part, markup.Text),
            object?[] several => Array.Exists(several, one => one is string affix
                ? part is not null && Counted(affix) && test(part, affix)
                : throw TemplateErrors.Type($"tuple for startswith or endswith must only contain str, not {TemplateValue.TypeName(one)}")),
            TemplateUndefined undefined => throw undefined.Error(),
            var other => throw TemplateErrors.Type($"first arg must be str or a tuple of str, not {TemplateValue.TypeName(other)}"),
        };

        bool Counted(string affix)
        {
            run.Read(affix);
            return true;
        }
    }

    /// <summary>The part of a text between two arguments, or null where the first lies behind the second or behind the text.</summary>
    private static string? Part(string text, CallArguments arguments, int from, out int start)
    {
        start = 0;
        if (arguments.Positional.Count <= from)
        {
            return text;
        }

        var length = PythonText.Length(text);
        start = Bound(from, 0);
        var end = Math.Min(Bound(from + 1, length), length);
        return start > end ? null : PythonText.FromCodePoints(PythonText.ToCodePoints(text).Skip(start).Take(end - start));

        int Bound(int index, int otherwise)
        {
            var bound = arguments.Get(index, "") is { } given ? TemplateOperations.Int32(given) : otherwise;
            return bound < 0 ? Math.Max(bound + length, 0) : bound;
        }
    }

    private static object? Find(string text, CallArguments arguments, bool last)
    {
        var sought = arguments.RequiredText(0, "sub");
        var searched = Part(text, arguments, 1, out var start);
        var at = searched is null ? -1 : last ? TextSearch.Last(searched, sought) : TextSearch.First(searched, sought);
        return at < 0 ? null : new BigInteger(CodePoints.Count(searched.AsSpan(0, at)) + start);
    }

    private static BigInteger Count(string text, string part) => part.Length == 0 ? PythonText.Length(text) + 1 : CountOf(text, part);

    private static int CountOf(string text, string part)
    {
        return TextSearch.All(text, part).Count();
    }

    /// <summary>Where characters begin, and the end.</summary>
    private static IEnumerable<int> Boundaries(string text)
    {
        for (var at = 0; at < text.Length;)
        {
            yield return at;
            CodePoints.At(text, at, out var length);
            at += length;
        }

        yield return text.Length;
    }

    private static object?[] Partition(string text, string separator, bool last)
    {
        var at = last ? TextSearch.Last(text, separator) : TextSearch.First(text, separator);
        return at < 0
            ? last ? ["", "", text] : [text, "", ""]
            : [text[..at], separator, text[(at + separator.Length)..]];
    }

    private static bool All(string text, Func<int, bool> test) => text.Length > 0 && PythonText.ToCodePoints(text).All(test);
}
