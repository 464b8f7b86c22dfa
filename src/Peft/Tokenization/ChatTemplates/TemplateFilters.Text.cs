using System.Numerics;
using System.Text;
using System.Text.RegularExpressions;

namespace Peft.Tokenization.ChatTemplates;

internal static partial class TemplateFilters
{
    private static readonly System.Buffers.SearchValues<char> s_noAttributeName = System.Buffers.SearchValues.Create(" \t\n\r\f/>=");

    private static void AddTextFilters(Dictionary<string, Func<object?, CallArguments, TemplateRun, object?>> filters)
    {
        Text("upper", (s, _, _) => Tokenization.Text.Casing.Upper(s));
        Text("lower", (s, _, _) => Tokenization.Text.Casing.Lower(s));
        Text("capitalize", (s, _, _) => Tokenization.Text.Casing.Capitalize(s));
        Text("title", (s, _, _) => Title(s));
        Text("trim", (s, a, _) => PythonMethods.Strip(s, a.Text(0, "chars"), true, true));
        Text("replace", (s, a, run) => PythonMethods.Replace(s, PythonText.Str(a.Required(0, "old"), run), PythonText.Str(a.Required(1, "new"), run),
            a.Get(2, "count") is { } count ? TemplateOperations.Int32(count) : -1));
        Text("center", (s, a, _) => PythonMethods.Center(s, CheckedWidth(a.Integer(0, "width", 80)), " "));
        Text("indent", Indent, onlyText: true);
        filters["truncate"] = (value, a, run) => value is string or TemplateMarkup
            ? Kept(value, Truncate(PythonText.Str(value, run), a, run))
            : Untruncated(value, a);
        Text("wordwrap", WordWrap, onlyText: true);
        Text("striptags", (s, _, _) => StripTags(s));
        Text("wordcount", (s, _, _) => new BigInteger(Words().Count(s)));
        Text("format", (s, a, run) => a.Named.Count > 0 && a.Positional.Count > 0
            ? throw TemplateErrors.Type("can't handle positional and keyword arguments at the same time")
            : PythonFormat.Percent(s, a.Named.Count > 0 ? Mapping(a) : a.Positional.ToArray(), run));
        filters["string"] = (value, _, run) => value is TemplateMarkup ? value : PythonText.Str(value, run);
        filters["escape"] = filters["e"] = (value, _, run) => value is TemplateMarkup ? value : new TemplateMarkup(Escaped(PythonText.Str(value, run)));
        filters["forceescape"] = (value, _, run) => new TemplateMarkup(Escaped(PythonText.Str(value, run)));
        filters["safe"] = (value, _, run) => new TemplateMarkup(PythonText.Str(value, run));
        filters["urlencode"] = UrlEncode;
        filters["xmlattr"] = XmlAttributes;
        filters["urlize"] = (_, _, _) => throw TemplateErrors.Unsafe("The filter urlize isn't available in chat templates.");

        void Text(string name, Func<string, CallArguments, TemplateRun, object?> filter, bool onlyText = false) => filters[name] = (value, arguments, run) =>
        {
            if (onlyText && value is not (string or TemplateMarkup))
            {
                throw Complaint(value, $"the filter {name} needs a text, not '{TemplateValue.TypeName(value)}'");
            }

            var text = PythonText.Str(value, run);
            var result = filter(text, arguments, run);
            return Kept(value, result);
        };
    }

    /// <summary>A result, marked as escaped where what it was made of is.</summary>
    private static object? Kept(object? value, object? result) => value is TemplateMarkup && result is string plain ? new TemplateMarkup(plain) : result;

    private static TemplateObject Mapping(CallArguments arguments)
    {
        var mapping = new TemplateObject();
        arguments.Named.ForEach(entry => mapping.Set(entry.Key, entry.Value));
        return mapping;
    }

    private static int CheckedWidth(int width)
    {
        TemplateRun.CheckText(width);
        return width;
    }

    /// <summary>Jinja's title: each word's first letter upper case, where words end at blanks, hyphens and opening brackets.</summary>
    private static string Title(string text)
    {
        var builder = new StringBuilder(text.Length);
        var start = 0;
        for (var i = 0; i <= text.Length; i++)
        {
            if (i < text.Length && !char.IsWhiteSpace(text[i]) && text[i] is not ('-' or '(' or '{' or '[' or '<'))
            {
                continue;
            }

            builder.Append(UpperFirst(text[start..i]));
            if (i < text.Length)
            {
                builder.Append(text[i]);
            }

            start = i + 1;
        }

        return builder.ToString();
    }

    private static string UpperFirst(string word)
    {
        if (word.Length == 0)
        {
            return word;
        }

        Tokenization.Text.CodePoints.At(word, 0, out var length);
        return Tokenization.Text.Casing.Upper(word[..length]) + Tokenization.Text.Casing.Lower(word[length..]);
    }

    private static object? Indent(string text, CallArguments arguments, TemplateRun run)
    {
        var width = arguments.Get(0, "width", new BigInteger(4));
        var (first, blank) = (arguments.Flag(1, "first"), arguments.Flag(2, "blank"));
        var indent = width as string ?? new string(' ', CheckedWidth(Math.Max(TemplateOperations.Int32(width), 0)));
        text += "\n";
        TemplateRun.CheckText(text.Length + ((long)text.AsSpan().Count('\n') * indent.Length));
        string result;
        if (blank)
        {
            result = text.Replace("\n", "\n" + indent, StringComparison.Ordinal);
            result = result[..^(indent.Length + 1)];
        }
        else
        {
            var lines = SplitLines(text);
            result = string.Join('\n', lines.Select((line, i) => i > 0 && line.Length > 0 ? indent + line : line));
        }

        return first ? indent + result : result;
    }

    private static List<string> SplitLines(string text)
    {
        return PythonMethods.SplitLines(text, keepEnds: false).ConvertAll(line => (string)line!);
    }

    private static (int Length, int Leeway, string End) Limits(CallArguments arguments)
    {
        var length = arguments.Integer(0, "length", 255);
        var end = (arguments.Text(2, "end", "...") ?? throw TemplateErrors.Type("must be str, not NoneType"));
        var leeway = arguments.Get(3, "leeway") is { } given ? TemplateOperations.Int32(given) : 5;
        return length < PythonText.Length(end) || leeway < 0
            ? throw TemplateErrors.Type($"expected length >= {PythonText.Length(end)}, got {length}")
            : (length, leeway, end);
    }

    /// <summary>What isn't a text goes through unchanged where it is short enough, and can't be cut.</summary>
    private static object? Untruncated(object? value, CallArguments arguments)
    {
        var (length, leeway, _) = Limits(arguments);
        return TemplateOperations.Length(value) <= (long)length + leeway
            ? value
            : throw TemplateErrors.Type($"the filter truncate can't cut a '{TemplateValue.TypeName(value)}'");
    }

    private static object? Truncate(string text, CallArguments arguments, TemplateRun run)
    {
        var (length, leeway, end) = Limits(arguments);
        var killWords = arguments.Flag(1, "killwords");
        var characters = PythonText.ToCodePoints(text);
        if (characters.Length <= (long)length + leeway)
        {
            return text;
        }

        var cut = PythonText.FromCodePoints(characters.Take(length - PythonText.Length(end)));
        if (killWords)
        {
            return cut + end;
        }

        var space = cut.LastIndexOf(' ');
        return (space < 0 ? cut : cut[..space]) + end;
    }

    private static string StripTags(string text)
    {
        var words = Without(Without(text, "<!--", "-->"), "<", ">").Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        return System.Net.WebUtility.HtmlDecode(string.Join(' ', words));
    }

    /// <summary>A text without what stands between two marks, up to the first that isn't closed.</summary>
    private static string Without(string text, string open, string close)
    {
        var builder = new StringBuilder();
        var at = 0;
        while (text.IndexOf(open, at, StringComparison.Ordinal) is var start and >= 0 && text.IndexOf(close, start, StringComparison.Ordinal) is var end and >= 0)
        {
            builder.Append(text, at, start - at);
            at = end + close.Length;
        }

        return builder.Append(text, at, text.Length - at).ToString();
    }

    private static object? UrlEncode(object? value, CallArguments arguments, TemplateRun run)
    {
        if (value is string or TemplateMarkup || !TemplateTests.Apply("iterable", value, CallArguments.None, run))
        {
            return Quote(PythonText.Str(value, run), keepSlash: true);
        }

        var length = 0L;
        var pairs = value is TemplateObject entries
            ? entries.Select(entry => (entry.Key, entry.Value))
            : TemplateOperations.Iterate(value, run).Select(item => TemplateOperations.Iterate(item, run).Take(3).ToList())
                .Select(pair => pair.Count == 2 ? (Key: pair[0], Value: pair[1]) : throw TemplateErrors.Type("the filter urlencode needs pairs"));
        return string.Join('&', pairs.Select(pair => Within(ref length, Quote(PythonText.Str(pair.Key, run), false) + "=" + Quote(PythonText.Str(pair.Value, run), false), run)));
    }

    /// <summary>A part of a text that grows; throws where the whole would get too long.</summary>
    private static string Within(ref long length, string part, TemplateRun run)
    {
        length += part.Length;
        TemplateRun.CheckText(length);
        return run.MadeText(part);
    }

    private static string Quote(string text, bool keepSlash)
    {
        var builder = new StringBuilder();
        foreach (var value in System.Text.Encoding.UTF8.GetBytes(text))
        {
            var character = (char)value;
            if (char.IsAsciiLetterOrDigit(character) || character is '_' or '.' or '-' or '~' || (character == '/' && keepSlash))
            {
                builder.Append(character);
            }
            else if (character == ' ' && !keepSlash)
            {
                builder.Append('+');
            }
            else
            {
                builder.Append(System.Globalization.CultureInfo.InvariantCulture, $"%{value:X2}");
            }
        }

        return builder.ToString();
    }

    private static object? XmlAttributes(object? value, CallArguments arguments, TemplateRun run)
    {
        var entries = value as TemplateObject ?? throw Complaint(value, "a mapping is required");
        var items = new List<string>();
        var length = 0L;
        foreach (var (key, item) in entries)
        {
            var name = (key as TemplateMarkup)?.Text ?? key as string ?? throw TemplateErrors.Type($"expected string or bytes-like object, got '{TemplateValue.TypeName(key)}'");
            if (name.AsSpan().IndexOfAny(s_noAttributeName) >= 0)
            {
                throw TemplateErrors.Type($"Invalid character in attribute name: '{name}'");
            }

            if (item is not (null or TemplateUndefined))
            {
                items.Add(Within(ref length, $"{Escaped(name)}=\"{Escaped(PythonText.Str(item, run))}\"", run));
            }
        }

        var text = string.Join(' ', items);
        return text.Length > 0 && arguments.Flag(0, "autospace", otherwise: true) ? " " + text : text;
    }

    [GeneratedRegex(@"\w+", RegexOptions.CultureInvariant, 5000)]
    private static partial Regex Words();
}
