using System.Globalization;
using System.Numerics;
using System.Text;
using System.Text.Json;
using CsvHelper;
using Peft.Files;

namespace Peft.Training.Data;

/// <summary>Reads the rows of a file in any of the formats.</summary>
internal static class RowReader
{
    private static readonly JsonDocumentOptions s_json = new() { MaxDepth = 64 };

    /// <summary>Reads all rows.</summary>
    /// <param name="path">The file.</param>
    /// <param name="options">Format, delimiter and encoding.</param>
    /// <param name="watch">Stops between rows, and hears how far the reading is.</param>
    /// <returns>The rows in order.</returns>
    /// <exception cref="PeftException">
    /// <c>FileNotFound</c>, <c>FileUnreadable</c>, <c>DatasetEncodingUnknown</c>, <c>DatasetEncodingInvalid</c> or <c>DatasetRowInvalid</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>DatasetFormatNotSupported</c>.</exception>
    public static IEnumerable<TrainingRow> Read(string path, DatasetOptions options, ReadingWatch watch)
    {
        if (Directory.Exists(path))
        {
            throw new PeftException("NotAFile", $"'{path}' is a folder; a data set is read from a file.")
            {
                Target = path,
                RecommendedAction = "Give the path of a file, or of several with a wildcard.",
            };
        }

        var format = options.Format == DatasetFormat.Automatic ? FormatOf(path) : options.Format;
        return format == DatasetFormat.Parquet ? ParquetRows.Read(path, watch) : ReadText(path, format, options, watch);
    }

    private static IEnumerable<TrainingRow> ReadText(string path, DatasetFormat format, DatasetOptions options, ReadingWatch watch)
    {
        using var file = TextFile.Guard(path, () => CompressedFile.Open(path));
        using var reader = TextFile.Guard(path, () => TextFile.Reader(file, path, options.Encoding));
        using var rows = Read(reader, path, format, options, () => watch.Row(file.Stored)).GetEnumerator();
        while (TextFile.Guard(path, rows.MoveNext))
        {
            yield return rows.Current;
        }
    }

    /// <summary>Reads all rows of a text, such as the lines of a file that came down a pipeline.</summary>
    /// <param name="text">The text.</param>
    /// <param name="origin">What messages call it.</param>
    /// <param name="options">Format and delimiter; the format can't be told by an extension.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>.</exception>
    public static List<TrainingRow> ReadText(string text, string origin, DatasetOptions options)
    {
        using var reader = new StreamReader(new MemoryStream(Encoding.UTF8.GetBytes(text)), Encoding.UTF8);
        return [.. Read(reader, origin, options.Format, options, static () => { })];
    }

    /// <summary>The columns of a file's first row. Of files of lines only the first two are read.</summary>
    public static IReadOnlyList<string> First(string path, DatasetOptions options)
    {
        var format = FormatOf(path);
        return format == DatasetFormat.Parquet ? ParquetRows.Columns(path) : TextFile.Read(path, null, reader =>
        {
            if (format == DatasetFormat.Json)
            {
                return JsonArray(reader, path) is [var first, ..] ? (IReadOnlyList<string>)[.. first.Values.Keys] : [];
            }

            var (header, row) = (reader.ReadLine() ?? "", reader.ReadLine());
            if (format is DatasetFormat.Csv or DatasetFormat.Tsv)
            {
                using var csv = CsvReader.Create(new StringReader($"{header}\n{row}"), new CsvReaderOptions { Separator = options.Delimiter ?? SeparatorOf(path) }, leaveOpen: false);
                return [.. csv.Headers.Select(static name => name.Trim())];
            }

            return ReadText(header, path, options with { Format = format }) is [var only, ..] ? [.. only.Values.Keys] : [];
        });
    }

    /// <summary>Whether a line is an object of JSON, as a data set's lines are.</summary>
    public static bool IsObject(string line)
    {
        if (line.AsSpan().Trim() is not ['{', .., '}'])
        {
            return false;
        }

        try
        {
            using var document = JsonDocument.Parse(line, s_json);
            return document.RootElement.ValueKind == JsonValueKind.Object;
        }
        catch (JsonException)
        {
            return false;
        }
    }

    private static char? SeparatorOf(string path) => CompressedFile.PlainName(path).EndsWith(".tsv", StringComparison.OrdinalIgnoreCase) ? '\t' : null;

    private static IEnumerable<TrainingRow> Read(StreamReader reader, string origin, DatasetFormat format, DatasetOptions options, Action onRow) => format switch
    {
        DatasetFormat.JsonLines => JsonLines(reader, origin, onRow),
        DatasetFormat.Json => JsonArray(reader, origin),
        DatasetFormat.Csv => Csv(reader, origin, options.Delimiter, onRow),
        DatasetFormat.Tsv => Csv(reader, origin, options.Delimiter ?? '\t', onRow),
        _ => Lines(reader, origin, onRow),
    };

    /// <summary>A JSON value as plain .NET objects.</summary>
    /// <param name="value">The value.</param>
    /// <returns>A string, <see cref="long"/>, <see cref="BigInteger"/>, <see cref="double"/>, truth value, null, list or dictionary.</returns>
    public static object? Plain(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => Properties(value),
        JsonValueKind.Array => value.EnumerateArray().Select(Plain).ToArray(),
        JsonValueKind.String => value.GetString(),
        JsonValueKind.Number => Number(value),
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => null,
    };

    /// <summary>As Python's json has it: digits alone are a whole number of any length, everything else a floating-point one.</summary>
    private static object Number(JsonElement value)
    {
        if (value.TryGetInt64(out var whole))
        {
            return whole;
        }

        var digits = value.GetRawText();
        return digits.AsSpan().ContainsAny('.', 'e', 'E') ? value.GetDouble() : BigInteger.Parse(digits, CultureInfo.InvariantCulture);
    }

    private static DatasetFormat FormatOf(string path) => Path.GetExtension(CompressedFile.PlainName(path)).ToUpperInvariant() switch
    {
        ".JSONL" or ".NDJSON" => DatasetFormat.JsonLines,
        ".JSON" => DatasetFormat.Json,
        ".CSV" => DatasetFormat.Csv,
        ".TSV" or ".TAB" => DatasetFormat.Tsv,
        ".PARQUET" => DatasetFormat.Parquet,
        ".TXT" or ".TEXT" or ".MD" => DatasetFormat.Text,
        _ => throw new NotSupportedByPeftException("DatasetFormatNotSupported", Path.HasExtension(path)
            ? $"'{path}' has the extension '{Path.GetExtension(path)}', which no format of data sets goes with."
            : $"'{path}' has no extension that says in which format it is.")
        {
            Target = path,
            RecommendedAction = "Use JSONL, JSON, CSV, TSV, Parquet or text (also compressed by gzip or zstd), or say which of them it is.",
        },
    };

    private static Dictionary<string, object?> Properties(JsonElement value)
    {
        var properties = new Dictionary<string, object?>();
        foreach (var property in value.EnumerateObject())
        {
            properties[property.Name] = Plain(property.Value);
        }

        return properties;
    }

    private static PeftException Invalid(string path, int line, string what, Exception? error = null) =>
        new("DatasetRowInvalid", string.Create(CultureInfo.InvariantCulture, $"{path}, line {line}: {what}"), error)
        {
            Target = path,
            RecommendedAction = "Mend or remove the row.",
        };

    private static IEnumerable<TrainingRow> Lines(StreamReader reader, string path, Action onRow)
    {
        for (var line = 1; reader.ReadLine() is { } text; line++)
        {
            onRow();
            if (!string.IsNullOrWhiteSpace(text))
            {
                yield return new TrainingRow(new Dictionary<string, object?> { ["text"] = text }, path, line);
            }
        }
    }

    private static IEnumerable<TrainingRow> JsonLines(StreamReader reader, string path, Action onRow)
    {
        for (var line = 1; reader.ReadLine() is { } text; line++)
        {
            onRow();
            if (!string.IsNullOrWhiteSpace(text))
            {
                yield return JsonLine(text, path, line);
            }
        }
    }

    private static TrainingRow JsonLine(string text, string path, int line)
    {
        try
        {
            var utf8 = Encoding.UTF8.GetBytes(text);
            using var document = JsonDocument.Parse(utf8, s_json);
            RefuseBroken(utf8, path, line);
            return ObjectRow(document.RootElement, path, line);
        }
        catch (JsonException error)
        {
            throw Invalid(path, line, $"this is not valid JSON (byte {error.BytePositionInLine + 1}): {JsonFile.Reason(error)}", error);
        }
    }

    private static void RefuseBroken(ReadOnlySpan<byte> utf8, string path, int firstLine)
    {
        if (JsonText.FirstBroken(utf8, s_json.MaxDepth) is var (line, field))
        {
            throw Invalid(path, firstLine + line - 1, JsonText.Describe(field));
        }
    }

    private static TrainingRow ObjectRow(JsonElement value, string path, int line) => value.ValueKind == JsonValueKind.Object
        ? new TrainingRow(Properties(value), path, line)
        : throw Invalid(path, line, "a row must be an object with named fields.");

    /// <summary>An array of objects, or the first array among an object's properties (as in <c>{"data": [...]}</c>).</summary>
    private static List<TrainingRow> JsonArray(StreamReader reader, string path)
    {
        var utf8 = Encoding.UTF8.GetBytes(reader.ReadToEnd());
        try
        {
            using var document = JsonDocument.Parse(utf8, s_json);
            RefuseBroken(utf8, path, 1);
            var root = document.RootElement;
            var array = root.ValueKind == JsonValueKind.Object
                ? root.EnumerateObject().Select(property => property.Value).FirstOrDefault(value => value.ValueKind == JsonValueKind.Array)
                : root;
            if (array.ValueKind != JsonValueKind.Array)
            {
                throw Invalid(path, 1, "the file must hold an array of objects, or an object with such an array.");
            }

            var lines = LinesOfItems(utf8, root.ValueKind == JsonValueKind.Object ? 2 : 1);
            return [.. array.EnumerateArray().Select((item, i) => ObjectRow(item, path, lines[i]))];
        }
        catch (JsonException error)
        {
            throw Invalid(path, (int)(error.LineNumber ?? 0) + 1, $"this is not valid JSON (byte {error.BytePositionInLine + 1}): {JsonFile.Reason(error)}", error);
        }
    }

    /// <summary>The line on which each item of the first array at a depth begins.</summary>
    private static List<int> LinesOfItems(byte[] utf8, int depth)
    {
        var lines = new List<int>();
        var reader = new Utf8JsonReader(utf8, new JsonReaderOptions { MaxDepth = s_json.MaxDepth });
        var inside = false;
        int line = 1, counted = 0;
        while (reader.Read())
        {
            if (!inside)
            {
                inside = reader.TokenType == JsonTokenType.StartArray && reader.CurrentDepth == depth - 1;
                continue;
            }

            if (reader.TokenType == JsonTokenType.EndArray && reader.CurrentDepth == depth - 1)
            {
                break;
            }

            if (reader.CurrentDepth == depth && reader.TokenType is not (JsonTokenType.EndObject or JsonTokenType.EndArray))
            {
                var start = (int)reader.TokenStartIndex;
                line += utf8.AsSpan(counted, start - counted).Count((byte)'\n');
                counted = start;
                lines.Add(line);
            }
        }

        return lines;
    }

    private static IEnumerable<TrainingRow> Csv(StreamReader reader, string path, char? delimiter, Action onRow)
    {
        var options = new CsvReaderOptions
        {
            Separator = delimiter ?? SeparatorOf(path),
            TrackLineNumbers = true,

            // A quote in the middle of a value is a quote; anything else that is wrong with quotes would swallow rows.
            OnMalformedRecord = record =>
            {
                if (record.Reason != CsvMalformedReason.StrayQuote)
                {
                    throw Invalid(path, (int)record.LineNumber, $"the quotes are wrong ({record.Reason}).");
                }
            },
        };
        using var csv = WellFormed(path, () => CsvReader.Create(reader, options, leaveOpen: true));
        string[] names = [.. csv.Headers.Select(name => name.Trim())];
        if (names.Distinct().Count() != names.Length)
        {
            throw Invalid(path, 1, $"two columns have the same name: {string.Join(", ", names)}.");
        }

        while (WellFormed(path, csv.Read))
        {
            onRow();
            yield return CsvRow(csv, names, path);
        }
    }

    private static T WellFormed<T>(string path, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (CsvFormatException error)
        {
            throw Invalid(path, (int)error.LineNumber, error.Message, error);
        }
    }

    private static TrainingRow CsvRow(CsvReader csv, string[] names, string path)
    {
        var line = (int)csv.LineNumber;
        if (csv.FieldCount != names.Length)
        {
            throw Invalid(path, line, $"the row has {csv.FieldCount} values, but there are {names.Length} columns ({string.Join(", ", names)}).");
        }

        var values = new Dictionary<string, object?>(names.Length);
        for (var i = 0; i < names.Length; i++)
        {
            // How a system ends lines is no part of a text: whoever edits the file elsewhere would teach something else.
            values.Add(names[i], csv.GetString(i)?.Replace("\r\n", "\n", StringComparison.Ordinal));
        }

        return new TrainingRow(values, path, line);
    }
}
