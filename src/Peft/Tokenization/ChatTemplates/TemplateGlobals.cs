using System.Globalization;
using System.Numerics;
using System.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>The functions that every template knows.</summary>
internal static class TemplateGlobals
{
    /// <summary>Sets them in a scope.</summary>
    public static void AddTo(TemplateScope scope)
    {
        Add("range", Range);
        Add("dict", Dictionary);
        Add("namespace", Namespace);
        Add("cycler", (a, _) => new TemplateCycler(a.Positional.Count > 0 ? a.Positional : throw TemplateErrors.Type("at least one item has to be provided")));
        Add("joiner", Joiner);
        Add("lipsum", (_, _) => throw TemplateErrors.Unsafe("lipsum isn't available in chat templates."));
        Add("raise_exception", (a, run) => throw new TemplateException(PythonText.Str(a.Required(0, "message"), run), "ChatTemplateRefused"));
        Add("strftime_now", (a, run) => Strftime.Format(run.Now, a.Text(0, "format") ?? ""));

        void Add(string name, Func<CallArguments, TemplateRun, object?> body) => scope.Set(name, new TemplateFunction(name, body));
    }

    private static object? Range(CallArguments arguments, TemplateRun run)
    {
        var numbers = arguments.Positional.ConvertAll(value => TemplateOperations.Number(value) as BigInteger?
            ?? throw ((value as TemplateUndefined)?.Error() ?? TemplateErrors.Type($"'{TemplateValue.TypeName(value)}' object cannot be interpreted as an integer")));
        return numbers.Count switch
        {
            1 => new TemplateRange(0, numbers[0], 1),
            2 => new TemplateRange(numbers[0], numbers[1], 1),
            3 => new TemplateRange(numbers[0], numbers[1], numbers[2]),
            _ => throw TemplateErrors.Type($"range expected 1 to 3 arguments, got {numbers.Count}"),
        };
    }

    private static TemplateObject Dictionary(CallArguments arguments, TemplateRun run)
    {
        var result = new TemplateObject();
        if (arguments.Positional.Count > 0)
        {
            if (arguments.Positional[0] is TemplateObject given)
            {
                foreach (var (key, value) in given)
                {
                    result.Set(key, value);
                }
            }
            else
            {
                foreach (var item in TemplateOperations.Iterate(arguments.Positional[0], run))
                {
                    var pair = TemplateOperations.Iterate(item, run).ToList();
                    result.Set(pair.Count == 2 ? pair[0] : throw TemplateErrors.Type("dictionary update sequence elements have to be pairs"), pair[1]);
                }
            }
        }

        arguments.Named.ForEach(entry => result.Set(entry.Key, entry.Value));
        return result;
    }

    private static TemplateNamespace Namespace(CallArguments arguments, TemplateRun run)
    {
        var result = new TemplateNamespace();
        foreach (var (key, value) in Dictionary(arguments, run))
        {
            result.Set(PythonText.Str(key, run), value);
        }

        return result;
    }

    private static TemplateFunction Joiner(CallArguments arguments, TemplateRun run)
    {
        var separator = PythonText.Str(arguments.Get(0, "sep", ", "), run);
        var used = false;
        return new TemplateFunction("joiner", (_, _) =>
        {
            var text = used ? separator : "";
            used = true;
            return text;
        });
    }
}

/// <summary>C's strftime in the C locale, with the dash that leaves leading zeros out.</summary>
internal static class Strftime
{
    /// <summary>Formats a time.</summary>
    public static string Format(DateTime time, string format)
    {
        var result = new StringBuilder();
        for (var i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 >= format.Length)
            {
                result.Append(format[i]);
                continue;
            }

            var flag = format[i + 1] is '-' or '_' or '0' or '^' && i + 2 < format.Length ? format[++i] : ' ';
            var text = Field(time, format[++i]) ?? "%" + format[i];
            result.Append(flag switch
            {
                '-' => text.TrimStart('0', ' ') is { Length: > 0 } stripped ? stripped : "0",
                '_' => text.StartsWith('0') ? " " + text[1..] : text,
                '0' => text.Replace(' ', '0'),
                '^' => text.ToUpperInvariant(),
                _ => text,
            });
        }

        return result.ToString();
    }

    private static string? Field(DateTime time, char field)
    {
        var culture = CultureInfo.InvariantCulture;
        return field switch
        {
            'a' => time.ToString("ddd", culture),
            'A' => time.ToString("dddd", culture),
            'b' or 'h' => time.ToString("MMM", culture),
            'B' => time.ToString("MMMM", culture),
            'c' => $"{time.ToString("ddd MMM", culture)} {time.Day,2} {time.ToString("HH:mm:ss yyyy", culture)}",
            'C' => (time.Year / 100).ToString("00", culture),
            'd' => time.ToString("dd", culture),
            'D' or 'x' => time.ToString("MM'/'dd'/'yy", culture),
            'e' => time.Day.ToString(culture).PadLeft(2),
            'f' => time.ToString("ffffff", culture),
            'F' => time.ToString("yyyy'-'MM'-'dd", culture),
            'g' => (ISOWeek.GetYear(time) % 100).ToString("00", culture),
            'G' => ISOWeek.GetYear(time).ToString(culture),
            'H' => time.ToString("HH", culture),
            'I' => time.ToString("hh", culture),
            'j' => time.DayOfYear.ToString("000", culture),
            'k' => time.Hour.ToString(culture).PadLeft(2),
            'l' => (((time.Hour + 11) % 12) + 1).ToString(culture).PadLeft(2),
            'm' => time.ToString("MM", culture),
            'M' => time.ToString("mm", culture),
            'n' => "\n",
            'p' => time.Hour < 12 ? "AM" : "PM",
            'P' => time.Hour < 12 ? "am" : "pm",
            'r' => time.ToString("hh:mm:ss ", culture) + (time.Hour < 12 ? "AM" : "PM"),
            'R' => time.ToString("HH:mm", culture),
            's' => new DateTimeOffset(time).ToUnixTimeSeconds().ToString(culture),
            'S' => time.ToString("ss", culture),
            't' => "\t",
            'T' or 'X' => time.ToString("HH:mm:ss", culture),
            'u' => (((int)time.DayOfWeek + 6) % 7 + 1).ToString(culture),
            'U' => ((time.DayOfYear + 6 - (int)time.DayOfWeek) / 7).ToString("00", culture),
            'V' => ISOWeek.GetWeekOfYear(time).ToString("00", culture),
            'w' => ((int)time.DayOfWeek).ToString(culture),
            'W' => ((time.DayOfYear + 6 - (((int)time.DayOfWeek + 6) % 7)) / 7).ToString("00", culture),
            'y' => time.ToString("yy", culture),
            'Y' => time.Year.ToString(culture),
            'z' or 'Z' => "",
            '%' => "%",
            _ => null,
        };
    }
}
