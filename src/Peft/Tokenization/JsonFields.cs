using System.Text.Json;
using Peft.Files;

namespace Peft.Tokenization;

/// <summary>A JSON object of a tokenizer file, read with errors that say where something is wrong.</summary>
internal readonly struct JsonFields
{
    private const int MaxDepth = 64;
    private readonly JsonElement _element;

    /// <summary>Wraps an object found at <paramref name="path"/>.</summary>
    public JsonFields(JsonElement element, string path)
    {
        if (element.ValueKind != JsonValueKind.Object)
        {
            throw Wrong(path, "an object", element);
        }

        _element = element;
        Path = path;
    }

    /// <summary>Where the object stands in its file.</summary>
    public string Path { get; }

    /// <summary>The object itself.</summary>
    public JsonElement Element => _element;

    /// <summary>The error for something that isn't what it should be.</summary>
    public static PeftException Wrong(string path, string expected, JsonElement found) =>
        new("TokenizerFileInvalid", $"{path} should be {expected}, and is {(found.ValueKind == JsonValueKind.Undefined ? "missing" : found.ValueKind.ToString())}.");

    /// <summary>Parses a file.</summary>
    public static JsonDocument Parse(ReadOnlyMemory<byte> bytes, string path)
    {
        try
        {
            var text = bytes.Span.StartsWith("\uFEFF"u8) ? bytes[3..] : bytes;
            var document = JsonDocument.Parse(text);
            if (!System.Text.Unicode.Utf8.IsValid(text.Span))
            {
                throw new PeftException("TokenizerFileInvalid", $"{path} isn't text in UTF-8.") { Target = path };
            }

            return JsonText.FirstBroken(text.Span, MaxDepth) is not var (line, field) ? document : throw new PeftException(
                "TokenizerFileInvalid", string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{path}, line {line}: {JsonText.Describe(field)}")) { Target = path };
        }
        catch (JsonException error)
        {
            throw new PeftException("TokenizerFileInvalid", $"{path} isn't valid JSON: {error.Message}", error) { Target = path };
        }
    }

    /// <summary>A member that is there and isn't null.</summary>
    public bool Has(string name, out JsonElement value) =>
        _element.TryGetProperty(name, out value) && value.ValueKind != JsonValueKind.Null;

    /// <summary>A string, or null where it is missing or null.</summary>
    public string? OptionalString(string name) => Has(name, out var value) ? Text(value, Path + "." + name) : null;

    /// <summary>A string that has to be there.</summary>
    public string String(string name) => OptionalString(name) ?? throw Wrong(Path + "." + name, "a string", default);

    /// <summary>A boolean.</summary>
    public bool Boolean(string name, bool otherwise)
    {
        if (!Has(name, out var value))
        {
            return otherwise;
        }

        return value.ValueKind switch
        {
            JsonValueKind.True => true,
            JsonValueKind.False => false,
            _ => throw Wrong(Path + "." + name, "true or false", value),
        };
    }

    /// <summary>A whole number.</summary>
    public int Integer(string name, int otherwise) => OptionalInteger(name) ?? otherwise;

    /// <summary>A whole number, or null.</summary>
    public int? OptionalInteger(string name)
    {
        if (!Has(name, out var value))
        {
            return null;
        }

        return value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var number)
            ? number
            : throw Wrong(Path + "." + name, "a whole number", value);
    }

    /// <summary>A number.</summary>
    public double Number(string name, double otherwise)
    {
        if (!Has(name, out var value))
        {
            return otherwise;
        }

        return value.ValueKind == JsonValueKind.Number ? value.GetDouble() : throw Wrong(Path + "." + name, "a number", value);
    }

    /// <summary>An object, or null.</summary>
    public JsonFields? OptionalObject(string name) => Has(name, out var value) ? new JsonFields(value, Path + "." + name) : null;

    /// <summary>An object that has to be there.</summary>
    public JsonFields Object(string name) => OptionalObject(name) ?? throw Wrong(Path + "." + name, "an object", default);

    /// <summary>The objects of a list; none where it is missing.</summary>
    public IEnumerable<JsonFields> Objects(string name)
    {
        var index = 0;
        foreach (var element in List(name))
        {
            yield return new JsonFields(element, $"{Path}.{name}[{index++}]");
        }
    }

    /// <summary>The elements of a list; none where it is missing.</summary>
    public IEnumerable<JsonElement> List(string name)
    {
        if (!Has(name, out var value))
        {
            return [];
        }

        return value.ValueKind == JsonValueKind.Array ? value.EnumerateArray() : throw Wrong(Path + "." + name, "a list", value);
    }

    /// <summary>The text of a JSON string.</summary>
    public static string Text(JsonElement value, string path)
    {
        if (value.ValueKind != JsonValueKind.String)
        {
            throw Wrong(path, "a string", value);
        }

        try
        {
            return value.GetString()!;
        }
        catch (InvalidOperationException error)
        {
            throw new PeftException("TokenizerFileInvalid", $"{path} holds half a surrogate pair or bytes that aren't UTF-8.", error);
        }
    }

    /// <summary>A single code point.</summary>
    public int CodePoint(string name)
    {
        var text = String(name);
        if (text.Length > 0)
        {
            var codePoint = Tokenization.Text.CodePoints.At(text, 0, out var length);
            if (length == text.Length)
            {
                return codePoint;
            }
        }

        throw Wrong(Path + "." + name, "a single character", _element.GetProperty(name));
    }
}
