using System.Globalization;
using System.Numerics;
using System.Text;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>Texts as Python sees them: counted in code points, and values printed as Python prints them.</summary>
internal static class PythonText
{
    /// <summary><c>str(value)</c></summary>
    public static string Str(object? value, TemplateRun run)
    {
        switch (value)
        {
            case string text:
                return text;
            case TemplateMarkup markup:
                return markup.Text;
            case TemplateUndefined:
                return string.Empty;
            default:
                var builder = new StringBuilder();
                Repr(value, builder, run);
                return builder.ToString();
        }
    }

    /// <summary><c>repr(value)</c></summary>
    public static string Repr(object? value, TemplateRun run)
    {
        var builder = new StringBuilder();
        Repr(value, builder, run);
        return builder.ToString();
    }

    /// <summary>The number of code points.</summary>
    public static int Length(string text) => HasSurrogates(text) ? CodePoints.Count(text) : text.Length;

    /// <summary>The code points, each as a text.</summary>
    public static IEnumerable<object?> Characters(string text)
    {
        for (var i = 0; i < text.Length;)
        {
            CodePoints.At(text, i, out var length);
            yield return text.Substring(i, length);
            i += length;
        }
    }

    /// <summary>The code points as numbers.</summary>
    public static int[] ToCodePoints(string text)
    {
        var result = new List<int>(text.Length);
        for (var i = 0; i < text.Length;)
        {
            result.Add(CodePoints.At(text, i, out var length));
            i += length;
        }

        return [.. result];
    }

    /// <summary>A text of code points.</summary>
    public static string FromCodePoints(IEnumerable<int> codePoints)
    {
        var builder = new StringBuilder();
        foreach (var codePoint in codePoints)
        {
            builder.Append(CodePoints.Text(codePoint));
        }

        return builder.ToString();
    }

    /// <summary>Order by code points.</summary>
    public static int Compare(string left, string right)
    {
        for (var i = 0; i < Math.Min(left.Length, right.Length); i++)
        {
            var (a, b) = (left[i], right[i]);
            if (a != b)
            {
                var (high, low) = (char.IsSurrogate(a), char.IsSurrogate(b));
                return high != low ? (high ? 1 : -1) : a.CompareTo(b);
            }
        }

        return left.Length.CompareTo(right.Length);
    }

    /// <summary>A real number as Python prints it: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.</summary>
    public static string Float(double value)
    {
        if (double.IsNaN(value))
        {
            return "nan";
        }

        if (double.IsInfinity(value))
        {
            return value > 0 ? "inf" : "-inf";
        }

        var shortest = value.ToString("R", CultureInfo.InvariantCulture);
        var mark = shortest.IndexOf('E', StringComparison.Ordinal);
        var mantissa = mark < 0 ? shortest : shortest[..mark];
        var negative = mantissa.StartsWith('-');
        mantissa = negative ? mantissa[1..] : mantissa;
        var point = mantissa.IndexOf('.', StringComparison.Ordinal);
        point = point < 0 ? mantissa.Length : point;
        var digits = mantissa.Replace(".", "", StringComparison.Ordinal);
        var zeros = digits.Length - digits.TrimStart('0').Length;
        var exponent = point - zeros - 1
            + (mark < 0 ? 0 : int.Parse(shortest.AsSpan(mark + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture));
        digits = digits.TrimStart('0').TrimEnd('0');
        digits = digits.Length == 0 ? "0" : digits;
        exponent = value == 0 ? 0 : exponent;
        var sign = negative ? "-" : "";
        if (exponent is < -4 or >= 16)
        {
            var fraction = digits.Length > 1 ? "." + digits[1..] : "";
            return string.Create(CultureInfo.InvariantCulture, $"{sign}{digits[0]}{fraction}e{(exponent < 0 ? '-' : '+')}{Math.Abs(exponent):00}");
        }

        if (exponent < 0)
        {
            return sign + "0." + new string('0', -exponent - 1) + digits;
        }

        var whole = digits.Length > exponent + 1 ? digits[..(exponent + 1)] : digits.PadRight(exponent + 1, '0');
        var rest = digits.Length > exponent + 1 ? digits[(exponent + 1)..] : "0";
        return sign + whole + "." + rest;
    }

    /// <summary>A whole number as Python prints it, which refuses very long ones.</summary>
    public static string Integer(BigInteger value) => value.GetBitLength() > 14_300
        ? throw TemplateErrors.Limit("Exceeds the limit (4300 digits) for integer string conversion.")
        : value.ToString(CultureInfo.InvariantCulture);

    private static void Repr(object? value, StringBuilder builder, TemplateRun run)
    {
        run.Step();
        TemplateRun.CheckText(builder.Length);
        switch (value)
        {
            case null:
                builder.Append("None");
                break;
            case bool flag:
                builder.Append(flag ? "True" : "False");
                break;
            case BigInteger number:
                builder.Append(Integer(number));
                break;
            case double number:
                builder.Append(Float(number));
                break;
            case string text:
                run.Read(text);
                Quote(text, builder);
                break;
            case TemplateMarkup markup:
                run.Read(markup);
                builder.Append("Markup(");
                Quote(markup.Text, builder);
                builder.Append(')');
                break;
            case List<object?> list:
                Items(list, "[", "]", builder, run);
                break;
            case object?[] tuple:
                Items(tuple, "(", tuple.Length == 1 ? ",)" : ")", builder, run);
                break;
            case TemplateGroup group:
                Items(group.Tuple, "(", ")", builder, run);
                break;
            case TemplateObject entries:
                Entries(entries, builder, run);
                break;
            default:
                ReprOther(value, builder, run);
                break;
        }
    }

    /// <summary>What has no literal.</summary>
    private static void ReprOther(object? value, StringBuilder builder, TemplateRun run)
    {
        switch (value)
        {
            case TemplateView view:
                Items(view.Items(), view.TypeName + "([", "])", builder, run);
                break;
            case TemplateMacro macro:
                builder.Append("<Macro ").Append(macro.Definition.Name is { } name ? $"'{name}'" : "anonymous").Append('>');
                break;
            case TemplateRange range:
                builder.Append("range(").Append(Integer(range.Start)).Append(", ").Append(Integer(range.Stop));
                builder.Append(range.Step.IsOne ? ")" : ", " + Integer(range.Step) + ")");
                break;
            case TemplateNamespace space:
                builder.Append("<Namespace ");
                var attributes = new TemplateObject();
                foreach (var (key, attribute) in space.Attributes)
                {
                    attributes.Set(key, attribute);
                }

                Entries(attributes, builder, run);
                builder.Append('>');
                break;
            case TemplateUndefined:
                builder.Append("Undefined");
                break;
            default:
                builder.Append('<').Append(TemplateValue.TypeName(value)).Append('>');
                break;
        }
    }

    private static void Items(IEnumerable<object?> items, string open, string close, StringBuilder builder, TemplateRun run)
    {
        builder.Append(open);
        var first = true;
        foreach (var item in items)
        {
            builder.Append(first ? "" : ", ");
            first = false;
            Repr(item, builder, run);
        }

        builder.Append(close);
    }

    private static void Entries(TemplateObject entries, StringBuilder builder, TemplateRun run)
    {
        builder.Append('{');
        var first = true;
        foreach (var (key, item) in entries)
        {
            builder.Append(first ? "" : ", ");
            first = false;
            Repr(key, builder, run);
            builder.Append(": ");
            Repr(item, builder, run);
        }

        builder.Append('}');
    }

    /// <summary>A text in the quotes that Python chooses, with what can't be printed escaped.</summary>
    private static void Quote(string text, StringBuilder builder)
    {
        var quote = text.Contains('\'', StringComparison.Ordinal) && !text.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        builder.Append(quote);
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            if (codePoint == quote || codePoint == '\\')
            {
                builder.Append('\\').Append((char)codePoint);
            }
            else if (codePoint is '\n' or '\r' or '\t')
            {
                builder.Append('\\').Append(codePoint == '\n' ? 'n' : codePoint == '\r' ? 'r' : 't');
            }
            else if (IsPrintable(codePoint))
            {
                builder.Append(text, i, length);
            }
            else
            {
                builder.Append(codePoint < 0x100 ? $"\\x{codePoint:x2}" : codePoint < 0x10000 ? $"\\u{codePoint:x4}" : $"\\U{codePoint:x8}");
            }

            i += length;
        }

        builder.Append(quote);
    }

    /// <summary>Whether a code point prints as itself.</summary>
    public static bool IsPrintable(int codePoint) => codePoint == ' ' || CharacterClass.Category(codePoint) is not (
        UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned
        or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.SpaceSeparator);

    /// <summary>Whether a code point may stand in a name.</summary>
    public static bool IsPartOfName(int codePoint) => codePoint == '_' || CharacterClass.Category(codePoint) <= UnicodeCategory.OtherLetter
        || CharacterClass.Category(codePoint) == UnicodeCategory.LetterNumber || IsPartOfNameOnly(codePoint);

    /// <summary>What may stand in a name, but not at its start.</summary>
    public static bool IsPartOfNameOnly(int codePoint) => codePoint != '_' && CharacterClass.Category(codePoint) is UnicodeCategory.NonSpacingMark
        or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.DecimalDigitNumber or UnicodeCategory.ConnectorPunctuation;

    private static bool HasSurrogates(string text) => text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF') >= 0;
}

/// <summary>Python's reading of numbers.</summary>
internal static class PythonNumbers
{
    /// <summary><c>int(text, base)</c>, or null; base 0 reads the prefix.</summary>
    public static BigInteger? ParseInteger(string given, int numberBase)
    {
        var text = given.Trim().Replace("_", "", StringComparison.Ordinal);
        var negative = text.StartsWith('-');
        text = text.TrimStart('+', '-');
        var prefix = text.Length > 1 && text[0] == '0' ? char.ToLowerInvariant(text[1]) : ' ';
        var prefixed = prefix switch { 'x' => 16, 'o' => 8, 'b' => 2, _ => 0 };
        if (prefixed != 0 && (numberBase == 0 || numberBase == prefixed))
        {
            (numberBase, text) = (prefixed, text[2..]);
        }

        numberBase = numberBase == 0 ? 10 : numberBase;
        if (text.Length is 0 or > 4300 || numberBase is < 2 or > 36)
        {
            return null;
        }

        var value = BigInteger.Zero;
        foreach (var character in text)
        {
            var digit = char.IsDigit(character) ? (int)char.GetNumericValue(character)
                : char.IsAsciiLetter(character) ? char.ToLowerInvariant(character) - 'a' + 10
                : 99;
            if (digit >= numberBase)
            {
                return null;
            }

            value = (value * numberBase) + digit;
        }

        return negative ? -value : value;
    }

    /// <summary><c>float(text)</c>, or null.</summary>
    public static double? ParseFloat(string text) => text.Trim().ToLowerInvariant() switch
    {
        "inf" or "+inf" or "infinity" => double.PositiveInfinity,
        "-inf" or "-infinity" => double.NegativeInfinity,
        "nan" => double.NaN,
        var plain => double.TryParse(plain, NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent | NumberStyles.AllowLeadingSign,
            CultureInfo.InvariantCulture, out var value) ? value : null,
    };
}
