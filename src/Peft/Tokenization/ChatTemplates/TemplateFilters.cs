using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>The filters of Jinja, and transformers' own <c>tojson</c>.</summary>
internal static partial class TemplateFilters
{
    private static readonly Dictionary<string, Func<object?, CallArguments, TemplateRun, object?>> s_filters = Make();

    /// <summary>Whether there is a filter of this name.</summary>
    public static bool Exists(string name) => s_filters.ContainsKey(name);

    /// <summary>Applies a filter.</summary>
    public static object? Apply(string name, object? value, CallArguments arguments, TemplateRun run)
    {
        run.Step();
        run.Read(value);
        return s_filters.TryGetValue(name, out var filter)
            ? run.Made(filter(value, TemplateOperations.Counted(arguments, run), run))
            : throw TemplateErrors.Type($"No filter named '{name}' found.");
    }

    /// <summary>Text with the characters that mean something in HTML escaped.</summary>
    public static string Escaped(string text) => text
        .Replace("&", "&amp;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal)
        .Replace("'", "&#39;", StringComparison.Ordinal).Replace("\"", "&#34;", StringComparison.Ordinal);

    private static Dictionary<string, Func<object?, CallArguments, TemplateRun, object?>> Make()
    {
        var filters = new Dictionary<string, Func<object?, CallArguments, TemplateRun, object?>>(StringComparer.Ordinal);
        AddTextFilters(filters);
        AddListFilters(filters);
        filters["abs"] = (value, _, _) => TemplateOperations.Number(value) switch
        {
            BigInteger number => BigInteger.Abs(number),
            double number => Math.Abs(number),
            _ => throw Complaint(value, $"bad operand type for abs(): '{TemplateValue.TypeName(value)}'"),
        };
        filters["attr"] = (value, a, run) => a.Text(0, "name") is { } name ? AttributeOnly(value, name, run) : null;
        filters["default"] = filters["d"] = (value, a, _) =>
            value is TemplateUndefined || (a.Flag(1, "boolean") && !TemplateOperations.Truth(value)) ? a.Get(0, "default_value", string.Empty) : value;
        filters["float"] = (value, a, _) => value is TemplateUndefined undefined
            ? throw undefined.Error()
            : TemplateOperations.Number(value) is { } number
            ? TemplateOperations.ToDouble(number)
            : (value is string text ? PythonNumbers.ParseFloat(text) : null) ?? a.Get(0, "default", 0.0);
        filters["int"] = Integer;
        filters["round"] = Round;
        filters["tojson"] = (value, a, run) => TemplateJson.Write(value, a, run);
        filters["pprint"] = (value, _, run) => PrettyPrinted(value, run);
        filters["filesizeformat"] = (value, a, _) => FileSize(value, a.Flag(0, "binary"));
        return filters;
    }

    private static TemplateException Complaint(object? value, string message) => (value as TemplateUndefined)?.Error() ?? TemplateErrors.Type(message);

    private static object? AttributeOnly(object? value, string name, TemplateRun run)
    {
        // Unlike a dot this never falls back to items.
        var member = TemplateAccess.Attribute(value is TemplateObject ? new TemplateObject() : value, name, run);
        return value is TemplateObject entries && member is TemplateFunction && PythonMethods.OfDictionary(entries, name) is { } bound ? bound : member;
    }

    private static object? Integer(object? value, CallArguments arguments, TemplateRun run)
    {
        var otherwise = arguments.Get(0, "default", BigInteger.Zero);
        switch (value)
        {
            case string text:
                var number = PythonNumbers.ParseInteger(text, arguments.Integer(1, "base", 10));
                return number is { } whole ? whole
                    : PythonNumbers.ParseFloat(text) is { } real && double.IsFinite(real) ? new BigInteger(Math.Truncate(real)) : otherwise;
            case TemplateUndefined undefined:
                throw undefined.Error();
            case double.PositiveInfinity or double.NegativeInfinity:
                throw new TemplateException("cannot convert float infinity to integer", "ChatTemplateArithmetic");
            case TemplateMarkup markup:
                return Integer(markup.Text, arguments, run);
            default:
                return TemplateOperations.Number(value) switch
                {
                    BigInteger plain => plain,
                    double fraction when double.IsFinite(fraction) => new BigInteger(Math.Truncate(fraction)),
                    _ => otherwise,
                };
        }
    }

    private static object? Round(object? value, CallArguments arguments, TemplateRun run)
    {
        var number = TemplateOperations.Number(value) ?? throw Complaint(value, $"type {TemplateValue.TypeName(value)} doesn't define __round__ method");
        var precision = arguments.Integer(0, "precision", 0);
        var method = arguments.Text(1, "method", "common");
        if (method is not ("common" or "ceil" or "floor"))
        {
            throw TemplateErrors.Type("method must be common, ceil or floor");
        }

        if (method == "common")
        {
            // Python rounds whole numbers to whole numbers, and real ones half to even on their exact value.
            return number is BigInteger whole ? RoundWhole(whole, precision) : RoundReal((double)number, precision);
        }

        var scale = Math.Pow(10, precision);
        var scaled = TemplateOperations.ToDouble(number) * scale;
        return (method == "ceil" ? Math.Ceiling(scaled) : Math.Floor(scaled)) / scale;
    }

    private static BigInteger RoundWhole(BigInteger value, int precision)
    {
        if (precision >= 0)
        {
            return value;
        }

        if (-precision > value.GetBitLength())
        {
            return BigInteger.Zero;
        }

        var unit = BigInteger.Pow(10, -precision);
        var quotient = BigInteger.DivRem(BigInteger.Abs(value), unit, out var rest);
        var up = (rest * 2).CompareTo(unit);
        return (up > 0 || (up == 0 && !quotient.IsEven) ? quotient + 1 : quotient) * unit * value.Sign;
    }

    private static double RoundReal(double value, int precision)
    {
        if (precision is < 0 or > 15 || !double.IsFinite(value) || Math.Abs(value) > 1e15)
        {
            var scale = Math.Pow(10, precision);
            return double.IsFinite(value * scale) ? Math.Round(value * scale, MidpointRounding.ToEven) / scale : value;
        }

        // The exact decimal value decides, which formatting with enough digits gives.
        return double.Parse(value.ToString("F" + precision.ToString(System.Globalization.CultureInfo.InvariantCulture), System.Globalization.CultureInfo.InvariantCulture) is var text
            && IsTie(value, precision) ? Even(value, precision) : text, System.Globalization.CultureInfo.InvariantCulture);
    }

    private static bool IsTie(double value, int precision)
    {
        var exact = (decimal)value * Pow10(precision);
        return Math.Abs(value) < 1e12 && (double)(exact / Pow10(precision)) == value && Math.Abs(exact - Math.Truncate(exact)) == 0.5m
            && value * Math.Pow(2, 40) % 1 == 0;
    }

    private static string Even(double value, int precision) =>
        Math.Round((decimal)value, precision, MidpointRounding.ToEven).ToString(System.Globalization.CultureInfo.InvariantCulture);

    private static decimal Pow10(int precision)
    {
        var power = 1m;
        for (var i = 0; i < precision; i++)
        {
            power *= 10;
        }

        return power;
    }

    private static string FileSize(object? value, bool binary)
    {
        var bytes = TemplateOperations.Number(value) is { } number ? TemplateOperations.ToDouble(number)
            : PythonNumbers.ParseFloat(value as string ?? "") ?? throw Complaint(value, "could not convert to a number");
        double unit = binary ? 1024 : 1000;
        string[] names = binary
            ? ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
            : ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
        if (bytes == 1)
        {
            return "1 Byte";
        }

        if (bytes < unit)
        {
            return PythonText.Integer(new BigInteger(Math.Truncate(bytes))) + " Bytes";
        }

        var at = 0;
        var next = unit * unit;
        while (bytes >= next && at < names.Length - 1)
        {
            next *= unit;
            at++;
        }

        return string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{unit * bytes / next:F1} {names[at]}");
    }

    /// <summary>Python's pprint, as far as its text fits one line.</summary>
    private static string PrettyPrinted(object? value, TemplateRun run)
    {
        const int Width = 80;
        var text = PythonText.Repr(Sorted(value, run), run);
        return PythonText.Length(text) <= Width || value is not (string or TemplateObject or List<object?> or object?[] or TemplateGroup)
            ? text
            : throw TemplateErrors.Unsafe($"The filter pprint isn't available in chat templates for what takes more than {Width} characters; tojson is.");
    }

    /// <summary>A value with the keys of its dictionaries in order.</summary>
    private static object? Sorted(object? value, TemplateRun run)
    {
        run.Step();
        switch (value)
        {
            case List<object?> list:
                return list.ConvertAll(item => Sorted(item, run));
            case object?[] tuple:
                return Array.ConvertAll(tuple, item => Sorted(item, run));
            case TemplateObject entries:
                var sorted = new TemplateObject();
                var items = entries.Select(entry => (object?)new[] { entry.Key, entry.Value }).ToList();
                foreach (var item in Ordered(items, pair => ((object?[])pair!)[0], reverse: false, run).Cast<object?[]>())
                {
                    sorted.Set(item[0], Sorted(item[1], run));
                }

                return sorted;
            default:
                return value;
        }
    }
}
