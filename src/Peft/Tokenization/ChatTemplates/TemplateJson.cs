using System.Globalization;
using System.Numerics;
using System.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary><c>tojson</c> as transformers has it: Python's <c>json.dumps</c> with its separators, nothing escaped for HTML.</summary>
internal static class TemplateJson
{
    /// <summary>Writes a value.</summary>
    public static string Write(object? value, CallArguments arguments, TemplateRun run)
    {
        var indent = arguments.Get(1, "indent") switch
        {
            null => null,
            string text => text,
            var width => new string(' ', Math.Clamp(TemplateOperations.Int32(width), 0, 1000)),
        };
        var (items, keys) = (indent is null ? ", " : ",", ": ");
        if (arguments.Get(2, "separators") is { } given)
        {
            var pair = TemplateOperations.Iterate(given, run).ToList();
            if (pair.Count != 2)
            {
                throw TemplateErrors.Type("separators must be a pair");
            }

            (items, keys) = (PythonText.Str(pair[0], run), PythonText.Str(pair[1], run));
        }

        var writer = new Writer(run, arguments.Flag(0, "ensure_ascii"), indent, items, keys, arguments.Flag(3, "sort_keys"));
        writer.Value(value, 0);
        return writer.ToString();
    }

    private sealed class Writer(TemplateRun run, bool ascii, string? indent, string items, string keys, bool sort)
    {
        private readonly StringBuilder _text = new();

        public override string ToString() => _text.ToString();

        public void Value(object? value, int depth)
        {
            run.Step();
            switch (value)
            {
                case string text:
                    String(text);
                    break;
                case TemplateMarkup markup:
                    String(markup.Text);
                    break;
                case TemplateObject entries:
                    Entries(entries, depth);
                    break;
                case List<object?> list:
                    Items(list, depth);
                    break;
                case object?[] tuple:
                    Items(tuple, depth);
                    break;
                case TemplateGroup group:
                    Items(group.Tuple, depth);
                    break;
                case null or bool or BigInteger or double:
                    _text.Append(Scalar(value));
                    break;
                case TemplateUndefined:
                    throw TemplateErrors.Undefined("Object of type Undefined is not JSON serializable");
                default:
                    throw TemplateErrors.Type($"Object of type {TemplateValue.TypeName(value)} is not JSON serializable");
            }
        }

        private static string Scalar(object? value) => value switch
        {
            null => "null",
            true => "true",
            false => "false",
            BigInteger number => PythonText.Integer(number),
            double number when double.IsNaN(number) => "NaN",
            double number when double.IsInfinity(number) => number > 0 ? "Infinity" : "-Infinity",
            _ => PythonText.Float((double)value),
        };

        private void Items(IReadOnlyList<object?> list, int depth)
        {
            _text.Append('[');
            for (var i = 0; i < list.Count; i++)
            {
                Separate(i, depth + 1);
                Value(list[i], depth + 1);
            }

            Close(list.Count, depth, ']');
        }

        private void Entries(TemplateObject entries, int depth)
        {
            _text.Append('{');
            var i = 0;
            var ordered = sort ? TemplateOperations.Sorted(entries, entry => Key(entry.Key), Order) : entries.AsEnumerable();
            foreach (var (key, value) in ordered)
            {
                Separate(i++, depth + 1);
                String(Key(key));
                Append(keys);
                Value(value, depth + 1);
            }

            Close(i, depth, '}');
        }

        private static string Key(object? key) => key switch
        {
            string text => text,
            TemplateMarkup markup => markup.Text,
            null or bool or BigInteger or double => Scalar(key),
            _ => throw TemplateErrors.Type($"keys must be str, int, float, bool or None, not {TemplateValue.TypeName(key)}"),
        };

        private void Separate(int index, int depth)
        {
            Append(index > 0 ? items : "");
            Line(depth);
        }

        private void Close(int count, int depth, char bracket)
        {
            if (count > 0)
            {
                Line(depth);
            }

            _text.Append(bracket);
        }

        private void Line(int depth)
        {
            if (indent is not null)
            {
                _text.Append('\n');
                for (var i = 0; i < depth; i++)
                {
                    Append(indent);
                }
            }
        }

        private void Append(string text)
        {
            run.Count(text.Length);
            TemplateRun.CheckText((long)_text.Length + text.Length);
            _text.Append(text);
        }

        private int Order(string left, string right)
        {
            run.Count(Math.Min(left.Length, right.Length));
            return PythonText.Compare(left, right);
        }

        private void String(string text)
        {
            run.Count(text.Length);
            TemplateRun.CheckText((long)_text.Length + text.Length);
            _text.Append('"');
            foreach (var character in text)
            {
                switch (character)
                {
                    case '"' or '\\':
                        _text.Append('\\').Append(character);
                        break;
                    case '\n':
                        _text.Append("\\n");
                        break;
                    case '\r':
                        _text.Append("\\r");
                        break;
                    case '\t':
                        _text.Append("\\t");
                        break;
                    case '\b':
                        _text.Append("\\b");
                        break;
                    case '\f':
                        _text.Append("\\f");
                        break;
                    default:
                        if (character < ' ' || (ascii && character > '~'))
                        {
                            _text.Append(CultureInfo.InvariantCulture, $"\\u{(int)character:x4}");
                        }
                        else
                        {
                            _text.Append(character);
                        }

                        break;
                }
            }

            _text.Append('"');
        }
    }
}
