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
        var tuple = values as object?[] ?? (values as TemplateGroup)?.Tuple ?? [values];
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

            var flags = WithWidths(format[start..i], tuple, ref next);
            if (!"diuoxXeEfFgGcrsa%".Contains(format[i], StringComparison.Ordinal))
            {
                throw TemplateErrors.Type($"unsupported format character '{format[i]}' (0x{(int)format[i]:x}) at index {i}");
            }

            if (format[i] == '%')
            {
                result.Append('%');
                continue;
            }

            var value = isNamed ? named : next < tuple.Length ? tuple[next++] : throw TemplateErrors.Type("not enough arguments for format string");
            result.Append(Conversion(flags, format[i], value, run));
            TemplateRun.CheckText(result.Length);
        }

        // Whatever has items by key or index, but for tuples and texts, may give more than the format takes.
        return next < tuple.Length && values is not (TemplateObject or List<object?> or TemplateRange or TemplateUndefined)
            ? throw TemplateErrors.Type("not all arguments converted during string formatting")
            : result.ToString();
    }

    /// <summary>The flags of a conversion with each asterisk replaced by the argument that it stands for.</summary>
    private static string WithWidths(string flags, object?[] tuple, ref int next)
    {
        if (flags.AsSpan().Count('*') > 2)
        {
            throw TemplateErrors.Type("unsupported format character '*'");
        }

        for (var at = flags.IndexOf('*', StringComparison.Ordinal); at >= 0; at = flags.IndexOf('*', StringComparison.Ordinal))
        {
            var width = next < tuple.Length && TemplateOperations.Number(tuple[next++]) is BigInteger number ? number : throw TemplateErrors.Type("* wants int");
            flags = flags[..at] + PythonText.Integer(at > 0 && flags[at - 1] == '.' ? BigInteger.Max(width, 0) : width) + flags[(at + 1)..];
        }

        return flags;
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
        if (TemplateOperations.Number(value) is { } numeric)
        {
            spec.CheckNumber(numeric is BigInteger ? "int" : "float");
            return spec.Pad(Numeric(numeric, spec), '>');
        }

        if (value is not (string or TemplateMarkup))
        {
            throw TemplateErrors.Type($"unsupported format string passed to {TemplateValue.TypeName(value)}.__format__");
        }

        spec.CheckText(specification);
        var aligned = spec.Align == '=' ? spec with { Align = '<' } : spec;
        return aligned.Pad(Truncated(PythonText.Str(value, run), spec.Precision), '<');
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
        run.Count(arguments.Named.Count);
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
            run.Count(path.Length);
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
            return FormatSpecification.ParsePercent(flags, '\0').Pad(Character(value), '>');
        }

        var numeric = TemplateOperations.Number(value) ?? throw TemplateErrors.Type($"%{type} format: a real number is required, not {TemplateValue.TypeName(value)}");
        var spec = FormatSpecification.ParsePercent(flags, type is 'i' or 'u' ? 'd' : type);
        if (spec.Type is 'd' or 'x' or 'X' or 'o')
        {
            numeric = numeric is double real
                ? spec.Type == 'd' && double.IsFinite(real) ? new BigInteger(Math.Truncate(real)) : throw TemplateErrors.Type($"%{type} format: an integer is required, not float")
                : numeric;
        }

        return spec.Pad(Numeric(numeric, spec), '>');
    }

    private static string Character(object? value)
    {
        if (TemplateOperations.Number(value) is BigInteger number)
        {
            return number >= 0 && number <= 0x10FFFF
                ? Text.CodePoints.Text((int)number)
                : throw TemplateErrors.Type("%c arg not in range(0x110000)");
        }

        var text = (value as TemplateMarkup)?.Text ?? value as string;
        return text is not null && PythonText.Length(text) == 1 ? text : throw TemplateErrors.Type("%c requires int or char");
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
            'x' or 'X' => Based("0" + spec.Type, Radix(value, 16, spec.Type == 'X')),
            'o' => Based("0o", Radix(value, 8, false)),
            'b' => Based("0b", Radix(value, 2, false)),
            'c' => Character(value),
            _ => Grouped(Long(PythonText.Integer(value)), spec.Grouping, 3),
        };

        string Based(string prefix, string digits) => (spec.Alternate ? prefix : "") + Grouped(Long(digits), spec.Grouping, 4);

        string Long(string digits) => digits.PadLeft(spec.Precision ?? 0, '0');
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
        return spec.Grouping == '\0' ? text : point < 0 ? Grouped(text, spec.Grouping, 3) : Grouped(text[..point], spec.Grouping, 3) + text[point..];
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

    private static string Grouped(string digits, char separator, int size)
    {
        if (separator == '\0')
        {
            return digits;
        }

        var result = new StringBuilder(digits);
        for (var i = digits.Length - size; i > 0; i -= size)
        {
            result.Insert(i, separator);
        }

        return result.ToString();
    }
}
