using System.Buffers;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Peft.Files;

/// <summary>
/// Reads the JSON files of model folders, which are foreign data: nesting is bounded, errors say where, and what Python's writer
/// puts out beyond the standard (<c>NaN</c>, <c>Infinity</c>) is understood.
/// </summary>
public static class JsonFile
{
    private const int MaxDepth = 128;

    /// <summary>Options for those who write JSON files the way model folders hold them: indented, non-ASCII characters as they are.</summary>
    public static JsonSerializerOptions WriteOptions { get; } = new()
    {
        WriteIndented = true,
        NewLine = "\n",
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>The same on one line, for files of JSON lines.</summary>
    internal static JsonSerializerOptions LineOptions { get; } = new(WriteOptions) { WriteIndented = false };

    /// <summary>Reads a file that holds one JSON value.</summary>
    /// <param name="path">The file, in UTF-8 with or without a byte order mark.</param>
    /// <returns>The value, independent of the file. Of duplicate properties the last one counts, as in Python.</returns>
    /// <exception cref="PeftException"><c>FileNotFound</c>, <c>FileUnreadable</c> or <c>JsonInvalid</c>.</exception>
    public static JsonElement Read(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        byte[] bytes;
        try
        {
            bytes = File.ReadAllBytes(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw FileErrors.Unreadable(path, error);
        }

        return Parse(bytes, path);
    }

    /// <summary>Reads a file that holds one JSON object.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The object.</returns>
    /// <exception cref="PeftException">As <see cref="Read"/>, and <c>JsonNotAnObject</c>.</exception>
    public static JsonElement ReadObject(string path)
    {
        var value = Read(path);
        return value.ValueKind == JsonValueKind.Object
            ? value
            : throw new PeftException("JsonNotAnObject", $"'{path}' should hold a JSON object but holds {Describe(value.ValueKind)}.") { Target = path };
    }

    /// <summary>Reads a file that holds one JSON object, for those who change it or keep it.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The object as a tree. Of duplicate properties the last one counts.</returns>
    /// <exception cref="PeftException">As <see cref="ReadObject"/>.</exception>
    public static JsonObject ReadNode(string path) => (JsonObject)Node(ReadObject(path))!;

    /// <summary>The tree of a value. What the framework makes of an element throws at the first look where a property stands twice.</summary>
    /// <param name="value">The value.</param>
    /// <returns>The tree; null for null.</returns>
    public static JsonNode? Node(JsonElement value)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                var result = new JsonObject();
                foreach (var property in value.EnumerateObject())
                {
                    result[property.Name] = Node(property.Value);
                }

                return result;
            case JsonValueKind.Array:
                return new JsonArray([.. value.EnumerateArray().Select(Node)]);
            default:
                return JsonValue.Create(value);
        }
    }

    /// <summary>What is wrong with a JSON text, without the place that .NET adds to it, whose lines and bytes begin at 0.</summary>
    internal static string Reason(JsonException error)
    {
        var end = error.Message.IndexOf(" LineNumber: ", StringComparison.Ordinal);
        return end > 0 ? error.Message[..end] : error.Message;
    }

    /// <summary>Parses JSON that was read from somewhere.</summary>
    /// <param name="utf8">The text in UTF-8.</param>
    /// <param name="origin">What to call it in an error message, usually a path.</param>
    /// <returns>The value.</returns>
    /// <exception cref="PeftException"><c>JsonInvalid</c>.</exception>
    public static JsonElement Parse(ReadOnlyMemory<byte> utf8, string origin)
    {
        if (utf8.Span.StartsWith((ReadOnlySpan<byte>)[0xEF, 0xBB, 0xBF]))
        {
            utf8 = utf8[3..];
        }

        if (!System.Text.Unicode.Utf8.IsValid(utf8.Span))
        {
            throw new PeftException("JsonInvalid", $"'{origin}' is not valid JSON: it is not text in UTF-8.") { Target = origin };
        }

        try
        {
            return ParseStrict(utf8, origin);
        }
        catch (JsonException error)
        {
            var standard = WithoutPythonNumbers(utf8.Span);
            if (standard is { } changed)
            {
                try
                {
                    return ParseStrict(changed, origin);
                }
                catch (JsonException)
                {
                    // The first error is the one that speaks of the file as it is.
                    throw Invalid(origin, error);
                }
            }

            throw Invalid(origin, error);
        }
    }

    /// <summary>Writes a value as an indented JSON file, whole or not at all.</summary>
    /// <typeparam name="T">The value's type.</typeparam>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="value">The value.</param>
    public static void Write<T>(string path, T value) => AtomicFile.Write(path, stream => Write(stream, value));

    /// <summary>Writes a value as indented JSON.</summary>
    internal static void Write<T>(Stream stream, T value)
    {
        JsonSerializer.Serialize(stream, value, WriteOptions);
        stream.WriteByte((byte)'\n');
    }

    private static JsonElement ParseStrict(ReadOnlyMemory<byte> utf8, string origin)
    {
        using var document = JsonDocument.Parse(utf8, new JsonDocumentOptions { MaxDepth = MaxDepth });
        if (JsonText.FirstBroken(utf8.Span, MaxDepth) is var (line, field))
        {
            throw new PeftException("JsonInvalid", string.Create(CultureInfo.InvariantCulture, $"'{origin}', line {line}: {JsonText.Describe(field)}"))
            {
                Target = origin,
                RecommendedAction = "Write the whole character, or leave it out.",
            };
        }

        return document.RootElement.Clone();
    }

    private static PeftException Invalid(string origin, JsonException error) =>
        new("JsonInvalid", $"'{origin}' is not valid JSON (line {error.LineNumber + 1}, byte {error.BytePositionInLine + 1}): {Reason(error)}", error)
        {
            Target = origin,
            RecommendedAction = "The file may be cut off or not be JSON at all; fetch or write it again.",
        };

    private static string Describe(JsonValueKind kind) => kind switch
    {
        JsonValueKind.Array => "an array",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => "a number",
        JsonValueKind.True or JsonValueKind.False => "true or false",
        _ => "null",
    };

    /// <summary>Python writes infinite numbers as bare words: they become numbers beyond double's range, NaN becomes null.</summary>
    private static ReadOnlyMemory<byte>? WithoutPythonNumbers(ReadOnlySpan<byte> utf8)
    {
        var result = new ArrayBufferWriter<byte>(Math.Max(1, utf8.Length));
        bool inString = false, changed = false;
        for (var i = 0; i < utf8.Length; i++)
        {
            var b = utf8[i];
            var rest = utf8[i..];
            if (!inString && b == 'I' && rest.StartsWith("Infinity"u8))
            {
                result.Write("1e999"u8);
                i += "Infinity".Length - 1;
                changed = true;
            }
            else if (!inString && b == 'N' && rest.StartsWith("NaN"u8))
            {
                result.Write("null"u8);
                i += "NaN".Length - 1;
                changed = true;
            }
            else
            {
                result.Write([b]);
                if (inString && b == '\\' && i + 1 < utf8.Length)
                {
                    result.Write([utf8[++i]]);
                }
                else if (b == '"')
                {
                    inString = !inString;
                }
            }
        }

        return changed ? result.WrittenMemory : null;
    }
}
