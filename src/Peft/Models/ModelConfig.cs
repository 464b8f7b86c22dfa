using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Peft.Models;

/// <summary>
/// A model's <c>config.json</c>: typed access by Hugging Face's names, and the document itself, so that saving a model writes back every key it came with.
/// </summary>
public sealed class ModelConfig
{
    /// <summary>Wraps a document.</summary>
    public ModelConfig(JsonObject document)
    {
        Document = document;
    }

    /// <summary>The document as read.</summary>
    public JsonObject Document { get; }

    /// <summary><c>model_type</c>, such as <c>llama</c>; empty when the file doesn't say.</summary>
    public string ModelType => String("model_type") ?? "";

    /// <summary>First of <c>architectures</c>, such as <c>LlamaForCausalLM</c>, or null.</summary>
    public string? Architecture => Document["architectures"] is JsonArray { Count: > 0 } names ? (string?)names[0] : null;

    /// <summary>Reads a <c>config.json</c>.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: the file is not a JSON object.</exception>
    public static ModelConfig FromFile(string path)
    {
        try
        {
            return FromText(File.ReadAllText(path));
        }
        catch (JsonException error)
        {
            throw new PeftException("ModelConfigInvalid", $"'{path}' is not a valid model configuration: {error.Message}");
        }
    }

    /// <summary>Parses the text of a <c>config.json</c>.</summary>
    public static ModelConfig FromText(string json) => new(
        JsonNode.Parse(json, documentOptions: new JsonDocumentOptions { MaxDepth = 64, AllowTrailingCommas = true }) as JsonObject
        ?? throw new JsonException("The document is not an object."));

    /// <summary>The value under a key, or null when it is absent or null.</summary>
    public JsonNode? Node(string key) => Document[key];

    /// <summary>A text, or null when absent.</summary>
    public string? String(string key) => Document[key] is JsonValue value && value.TryGetValue<string>(out var text) ? text : null;

    /// <summary>An integer, or null when absent.</summary>
    public long? Integer(string key) => Number(key) is { } number ? checked((long)number) : null;

    /// <summary>An integer that the architecture can't do without.</summary>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    public long RequiredInteger(string key) => Integer(key) ?? throw new PeftException(
        "ModelConfigIncomplete", $"The model's configuration has no '{key}', which '{ModelType}' needs.");

    /// <summary>A number, or null when absent.</summary>
    public double? Number(string key) => Document[key] is JsonValue value && value.GetValueKind() == JsonValueKind.Number
        ? double.Parse(value.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture)
        : null;

    /// <summary>A truth value, or null when absent.</summary>
    public bool? Boolean(string key) => Document[key] is JsonValue value && value.TryGetValue<bool>(out var flag) ? flag : null;

    /// <summary>One or several token ids (<c>eos_token_id</c> may be either).</summary>
    public IReadOnlyList<int> TokenIds(string key) => Document[key] switch
    {
        JsonArray several => [.. several.Select(static id => (int)id!)],
        JsonValue => [checked((int)RequiredInteger(key))],
        _ => [],
    };
}
