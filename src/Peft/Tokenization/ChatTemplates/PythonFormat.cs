using System.Globalization;
using System.Numerics;
using System.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>Python's two ways of formatting: <c>'%s' % x</c> and <c>'{}'.format(x)</c>.</summary>
internal static class PythonFormat
{
    /// <summary><c>format % values</c></summary>
    public static string Percent(string format, object? values, TemplateRun run)
    {
        var tuple = values as object?[] ?? [values];
        var next = 0;
        var result = new StringBuilder();
        for (var i = 0; i < format.Length; i++)
        {
            if (format[i] != '%')
            {
                result.Append(format[i]);
                continue;
            }

            i++;
            object? named = null;
            var isNamed = false;
            if (i < format.Length && format[i] == '(')
            {
                var close = format.IndexOf(')', i);
                var mapping = values as TemplateObject;
                if (close < 0 || mapping is null || !mapping.TryGet(format[(i + 1)..close], out named))
                {
                    throw TemplateErrors.Type("format requires a mapping");
                }

                (isNamed, i) = (true, close + 1);
            }

            var start = i;
            while (i < format.Length && "-+ #0123456789.*".Contains(format[i], StringComparison.Ordinal))
            {
                i++;
            }

            if (i >= format.Length)
            {
                throw TemplateErrors.Type("incomplete format");
            }

            if (format[i] == '%')
            {
                result.Append('%');
                continue;
            }

            var value = isNamed ? named : next < tuple.Length ? tuple[next++] : throw TemplateErrors.Type("not enough arguments for format string");
            result.Append(Conversion(format[start..i], format[i], value, run));
            TemplateRun.CheckText(result.Length);
        }

        return next < tuple.Length && values is not TemplateObject
            ? throw TemplateErrors.Type("not all arguments converted during string formatting")
            : result.ToString();
    }

    /// <summary><c>format.format(*positional, **named)</c></summary>
    public static string Braces(string format, CallArguments arguments, TemplateRun run, int depth = 0)
    {
        var result = new StringBuilder();
        var automatic = 0;
        for (var i = 0; i < format.Length; i++)
        {
            var character = format[i];
            if (character is '{' or '}' && i + 1 < format.Length && format[i + 1] == character)
            {
                result.Append(character);
                i++;
            }
            else if (character == '}')
            {
                throw TemplateErrors.Type("Single '}' encountered in format string");
            }
            else if (character != '{')
            {
                result.Append(character);
            }
            else
            {
                var close = Closing(format, i);
                result.Append(Field(format[(i + 1)..close], arguments, ref automatic, run, depth));
                TemplateRun.CheckText(result.Length);
                i = close;
            }
        }

        return result.ToString();
    }

    /// <summary><c>format(value, specification)</c></summary>
    public static string Specification(object? value, string specification, TemplateRun run)
    {
        if (specification.Length == 0)
        {
            return PythonText.Str(value, run);
        }

        var spec = FormatSpecification.Parse(specification);
        var numeric = TemplateOperations.Number(value);
        if (value is bool && spec.Type == '\0')
        {
            numeric = null;
        }

        var text = numeric is null ? Truncated(PythonText.Str(value, run), spec.Precision) : Numeric(numeric, spec);
        return spec.Pad(text, numeric is null ? '<' : '>');
    }

    private static int Closing(string format, int open)
    {
        var depth = 0;
        for (var i = open; i < format.Length; i++)
        {
            depth += format[i] == '{' ? 1 : format[i] == '}' ? -1 : 0;
            if (depth == 0)
            {
                return i;
            }
        }

        throw TemplateErrors.Type("expected '}' before end of string");
    }

    private static string Field(string field, CallArguments arguments, ref int automatic, TemplateRun run, int depth)
    {
        if (depth > 2)
        {
            throw TemplateErrors.Type("Max string recursion exceeded");
        }

        var colon = field.IndexOf(':', StringComparison.Ordinal);
        var specification = colon < 0 ? "" : Braces(field[(colon + 1)..], arguments, run, depth + 1);
        var name = colon < 0 ? field : field[..colon];
        var bang = name.IndexOf('!', StringComparison.Ordinal);
        var conversion = bang < 0 ? "" : name[(bang + 1)..];
        name = bang < 0 ? name : name[..bang];
        var end = name.IndexOfAny(['.', '[']);
        var root = end < 0 ? name : name[..end];
        object? value;
        if (root.Length == 0 || root.All(char.IsAsciiDigit))
        {
            var index = root.Length == 0 ? automatic++ : int.TryParse(root, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : int.MaxValue;
            value = index < arguments.Positional.Count ? arguments.Positional[index] : throw TemplateErrors.Type("Replacement index out of range for positional args tuple");
        }
        else if (!arguments.TryGet(int.MaxValue, root, out value))
        {
            throw TemplateErrors.Type($"KeyError: '{root}'");
        }

        value = Path(value, end < 0 ? "" : name[end..], run);
        value = conversion switch
        {
            "" => value,
            "r" => PythonText.Repr(value, run),
            "s" => PythonText.Str(value, run),
            _ => throw TemplateErrors.Type($"Unknown conversion specifier '{conversion}'"),
        };
        return Specification(value, specification, run);
    }

    private static object? Path(object? value, string path, TemplateRun run)
    {
        while (path.Length > 0)
        {
            var bracket = path[0] == '[';
            var end = bracket ? path.IndexOf(']', StringComparison.Ordinal) : path.IndexOfAny(['.', '['], 1);
            end = end < 0 ? path.Length : end;
            var name = path[1..end];
            value = bracket
                ? TemplateAccess.Item(value, name.All(char.IsAsciiDigit) && name.Length is > 0 and < 9 ? BigInteger.Parse(name, CultureInfo.InvariantCulture) : name, run)
                : TemplateAccess.Attribute(value, name, run);
            path = path[Math.Min(bracket ? end + 1 : end, path.Length)..];
        }

        return value;
    }

    private static string Conversion(string flags, char type, object? value, TemplateRun run)
    {
        if (type is 's' or 'r' or 'a')
        {
            var text = type == 's' ? PythonText.Str(value, run) : PythonText.Repr(value, run);
            var parsed = FormatSpecification.ParsePercent(flags, '\0');
            return parsed.Pad(Truncated(text, parsed.Precision), '>');
        }

        if (type == 'c')
        {
            var code = TemplateOperations.Number(value) is BigInteger number && number >= 0 && number <= 0x10FFFF ? Text.CodePoints.Text((int)number) : PythonText.Str(value, run);
            return FormatSpecification.ParsePercent(flags, '\0').Pad(code, '>');
        }

        var numeric = TemplateOperations.Number(value) ?? throw TemplateErrors.Type($"%{type} format: a real number is required, not {TemplateValue.TypeName(value)}");
        var spec = FormatSpecification.ParsePercent(flags, type is 'i' or 'u' ? 'd' : type);
        if (spec.Type is 'd' or 'x' or 'X' or 'o')
        {
            numeric = numeric is double real ? new BigInteger(Math.Truncate(real)) : numeric;
            spec = spec with { Precision = null };
        }

        return spec.Pad(Numeric(numeric, spec), '>');
    }

    private static string Truncated(string text, int? length) =>
        length is { } most && PythonText.Length(text) > most ? PythonText.FromCodePoints(PythonText.ToCodePoints(text).Take(most)) : text;

    private static string Numeric(object number, FormatSpecification spec)
    {
        var negative = number is BigInteger whole ? whole.Sign < 0 : (double)number < 0 || (double.IsNegative((double)number) && (double)number == 0);
        var digits = number is BigInteger integer && spec.Type is '\0' or 'd' or 'x' or 'X' or 'o' or 'b' or 'c' or 'n' && number is BigInteger
            ? Whole(BigInteger.Abs((BigInteger)number), spec)
            : Real(Math.Abs(TemplateOperations.ToDouble(number)), spec);
        return spec.Signed(digits, negative);
    }

    private static string Whole(BigInteger value, FormatSpecification spec)
    {
        if (value.GetBitLength() > 14_300)
        {
            PythonText.Integer(value);
        }

        return spec.Type switch
        {
            'x' or 'X' => (spec.Alternate ? "0" + spec.Type : "") + Radix(value, 16, spec.Type == 'X'),
            'o' => (spec.Alternate ? "0o" : "") + Radix(value, 8, false),
            'b' => (spec.Alternate ? "0b" : "") + Radix(value, 2, false),
            'c' => Text.CodePoints.Text((int)value),
            _ => Grouped(PythonText.Integer(value), spec.Grouping),
        };
    }

    private static string Real(double value, FormatSpecification spec)
    {
        if (double.IsNaN(value) || double.IsInfinity(value))
        {
            return PythonText.Float(value);
        }

        var precision = spec.Precision ?? 6;
        string text;
        switch (spec.Type)
        {
            case 'f' or 'F' or '%':
                text = (spec.Type == '%' ? value * 100 : value).ToString("F" + precision.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
                text = spec.Type == '%' ? text + "%" : text;
                break;
            case 'e' or 'E':
                text = Exponent(value, precision, spec.Type);
                break;
            default:
                text = spec.Type == '\0' && spec.Precision is null ? PythonText.Float(value) : General(value, Math.Max(precision, 1), spec.Type);
                break;
        }

        var point = text.IndexOf('.', StringComparison.Ordinal);
        return spec.Grouping == '\0' ? text : point < 0 ? Grouped(text, spec.Grouping) : Grouped(text[..point], spec.Grouping) + text[point..];
    }

    private static string Exponent(double value, int precision, char type)
    {
        var text = value.ToString("E" + precision.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
        var mark = text.IndexOf('E', StringComparison.Ordinal);
        var exponent = int.Parse(text.AsSpan(mark + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        return string.Create(CultureInfo.InvariantCulture, $"{text[..mark]}{type}{(exponent < 0 ? '-' : '+')}{Math.Abs(exponent):00}");
    }

    private static string General(double value, int precision, char type)
    {
        var scientific = Exponent(value, precision - 1, type == 'G' ? 'E' : 'e');
        var mark = scientific.IndexOfAny(['e', 'E']);
        var exponent = int.Parse(scientific.AsSpan(mark + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        if (exponent < -4 || exponent >= precision)
        {
            var mantissa = scientific[..mark];
            return (mantissa.Contains('.', StringComparison.Ordinal) ? mantissa.TrimEnd('0').TrimEnd('.') : mantissa) + scientific[mark..];
        }

        var plain = value.ToString("F" + (precision - 1 - exponent).ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
        plain = plain.Contains('.', StringComparison.Ordinal) ? plain.TrimEnd('0').TrimEnd('.') : plain;
        return type == '\0' && !plain.Contains('.', StringComparison.Ordinal) ? plain + ".0" : plain;
    }

    private static string Radix(BigInteger value, int radix, bool upper)
    {
        if (value.IsZero)
        {
            return "0";
        }

        var digits = new StringBuilder();
        for (; !value.IsZero; value /= radix)
        {
            digits.Insert(0, (upper ? "0123456789ABCDEF" : "0123456789abcdef")[(int)(value % radix)]);
        }

        return digits.ToString();
    }

    private static string Grouped(string digits, char separator)
    {
        if (separator == '\0')
        {
            return digits;
        }

        var result = new StringBuilder(digits);
        for (var i = digits.Length - 3; i > 0; i -= 3)
        {
            result.Insert(i, separator);
        }

        return result.ToString();
    }
}

/// <summary>Fill, alignment, sign, width, grouping, precision and type.</summary>
internal readonly record struct FormatSpecification(char Fill, char Align, char Sign, bool Alternate, int Width, char Grouping, int? Precision, char Type)
{
    /// <summary>Reads the part after the colon.</summary>
    public static FormatSpecification Parse(string text)
    {
        var i = 0;
        var (fill, align) = (' ', '\0');
        if (text.Length > 1 && "<>^=".Contains(text[1], StringComparison.Ordinal))
        {
            (fill, align, i) = (text[0], text[1], 2);
        }
        else if (text.Length > 0 && "<>^=".Contains(text[0], StringComparison.Ordinal))
        {
            (align, i) = (text[0], 1);
        }

        var sign = i < text.Length && text[i] is '+' or '-' or ' ' ? text[i++] : '-';
        var alternate = i < text.Length && text[i] == '#' && i++ >= 0;
        if (i < text.Length && text[i] == '0')
        {
            i++;
            (fill, align) = align == '\0' ? ('0', '=') : (fill, align);
        }

        var width = Digits(text, ref i);
        var grouping = i < text.Length && text[i] is ',' or '_' ? text[i++] : '\0';
        int? precision = null;
        if (i < text.Length && text[i] == '.')
        {
            i++;
            precision = Digits(text, ref i);
        }

        var type = i < text.Length ? text[i++] : '\0';
        return i < text.Length ? throw TemplateErrors.Type("Invalid format specifier") : new(fill, align, sign, alternate, width, grouping, precision, type);
    }

    /// <summary>Reads the flags of a % conversion.</summary>
    public static FormatSpecification ParsePercent(string flags, char type)
    {
        var i = 0;
        var (fill, align, sign, alternate) = (' ', '\0', '-', false);
        for (; i < flags.Length && "-+ #0".Contains(flags[i], StringComparison.Ordinal); i++)
        {
            switch (flags[i])
            {
                case '-':
                    (fill, align) = (' ', '<');
                    break;
                case '+' or ' ':
                    sign = sign == '+' ? '+' : flags[i];
                    break;
                case '#':
                    alternate = true;
                    break;
                default:
                    (fill, align) = align == '<' || type == '\0' ? (fill, align) : ('0', '=');
                    break;
            }
        }

        var width = Digits(flags, ref i);
        int? precision = null;
        if (i < flags.Length && flags[i] == '.')
        {
            i++;
            precision = Digits(flags, ref i);
        }

        return new(fill, align, sign, alternate, width, '\0', precision, type);
    }

    /// <summary>Puts the sign in front, and zeros between it and the digits.</summary>
    public string Signed(string digits, bool negative)
    {
        var sign = negative ? "-" : Sign is '+' or ' ' ? Sign.ToString() : "";
        return Align == '=' ? sign + digits.PadLeft(Math.Max(Width - sign.Length, 0), Fill) : sign + digits;
    }

    /// <summary>Fills up to the width.</summary>
    public string Pad(string text, char otherwise)
    {
        var missing = Width - PythonText.Length(text);
        if (missing <= 0)
        {
            return text;
        }

        var left = (Align == '\0' ? otherwise : Align) switch
        {
            '<' => 0,
            '^' => missing / 2,
            _ => missing,
        };
        return new string(Fill, left) + text + new string(Fill, missing - left);
    }

    private static int Digits(string text, ref int i)
    {
        var value = 0;
        for (; i < text.Length && char.IsAsciiDigit(text[i]); i++)
        {
            value = Math.Min((value * 10) + text[i] - '0', 100_000_000);
        }

        TemplateRun.CheckText(value);
        return value > 100_000 ? throw TemplateErrors.Limit("The chat template asks for a width that is too large.") : value;
    }
}
