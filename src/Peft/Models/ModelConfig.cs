using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;

namespace Peft.Models;

/// <summary>
/// A model's <c>config.json</c>: typed access by Hugging Face's names, and the document itself, so that saving a model writes back every key it came with.
/// </summary>
public sealed class ModelConfig
{
    // Beyond any published width or vocabulary, and small enough that no product of a weight's sizes overflows.
    internal const long MaxSize = 1 << 22;

    private const string TextKey = "text_config";

    // Whole numbers up to here are exact as doubles.
    private const double MaxWhole = 1L << 53;

    private readonly Family? _family;

    /// <summary>Wraps a document.</summary>
    /// <param name="document">The document.</param>
    /// <param name="family">The family that reads it; null while that isn't known.</param>
    public ModelConfig(JsonObject document, Family? family = null)
    {
        Document = document;
        _family = family;
    }

    /// <summary>The document as read.</summary>
    public JsonObject Document { get; }

    /// <summary>The family that reads it, or null.</summary>
    internal Family? KnownFamily => _family;

    /// <summary>The family whose model this is; its defaults stand where the document says nothing.</summary>
    public Family Family => KnownFamily ?? throw new InvalidOperationException("This configuration was not given to a family.");

    /// <summary>The configuration of the whole model, where this is the part of it that reads text; null otherwise.</summary>
    public ModelConfig? Outer { get; private init; }

    /// <summary><c>model_type</c>, such as <c>llama</c>; empty when the file doesn't say.</summary>
    public string ModelType => String("model_type") ?? "";

    /// <inheritdoc/>
    public override string ToString() => ModelType;

    /// <summary>First of <c>architectures</c>, such as <c>LlamaForCausalLM</c>, or null.</summary>
    public string? Architecture => Document["architectures"] is JsonArray { Count: > 0 } names
        && names[0] is JsonValue first && first.TryGetValue<string>(out var name) ? name : null;

    /// <summary>Reads a <c>config.json</c>.</summary>
    /// <exception cref="PeftException"><c>FileNotFound</c>, <c>FileUnreadable</c>, <c>JsonInvalid</c> or <c>JsonNotAnObject</c>.</exception>
    public static ModelConfig FromFile(string path) => new(JsonFile.ReadNode(path));

    /// <summary>The document as a family reads it.</summary>
    internal ModelConfig For(Family reader) => new(Document, reader) { Outer = Outer };

    /// <summary>The configuration of the language model in a model of several parts (<c>text_config</c>).</summary>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    internal ModelConfig Text() => new(Document[TextKey] as JsonObject ?? throw new PeftException(
        "ModelConfigIncomplete", $"The model's configuration has no '{TextKey}', which '{ModelType}' needs."))
    {
        Outer = this,
    };

    /// <summary>The configuration of another part of a model of several.</summary>
    /// <param name="key">Where it stands; a part without one has its defaults.</param>
    internal ModelConfig Inner(string key) => new(Document[key] as JsonObject ?? []) { Outer = this };

    /// <summary>Parses the text of a <c>config.json</c>.</summary>
    /// <exception cref="PeftException"><c>JsonInvalid</c> or <c>ModelConfigInvalid</c>: no object.</exception>
    public static ModelConfig FromText(string json) => new(
        JsonFile.Node(JsonFile.Parse(Encoding.UTF8.GetBytes(json), "the model's configuration")) as JsonObject
        ?? throw new PeftException("ModelConfigInvalid", "The model's configuration is not a JSON object."));

    /// <summary>
    /// The value under a key; when it is absent the family's default, then what the language model in a model of several parts has. Null
    /// when there is none of them, or the document says null.
    /// </summary>
    public JsonNode? Node(string key) => Document.TryGetPropertyValue(NameOf(key), out var node) ? node
        : _family?.Defaults?[key] ?? (Document[TextKey] as JsonObject)?[key];

    /// <summary>Writes a value under the name that the document gives a key.</summary>
    internal void Set(string key, JsonNode? value) => Document[NameOf(key)] = value;

    /// <summary>A text, or null when absent.</summary>
    public string? String(string key) => Node(key) is JsonValue value && value.TryGetValue<string>(out var text) ? text : null;

    /// <summary>An integer, or null when absent.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: not a whole number of 64 bits.</exception>
    public long? Integer(string key) => Number(key) is { } number ? Whole(key, number) : null;

    /// <summary>A size that a file may lie about: without a bound, a number alone could ask for more memory than there is.</summary>
    /// <param name="key">The key.</param>
    /// <param name="fallback">The value where the key is absent.</param>
    /// <param name="least">The least it can be.</param>
    /// <param name="most">The most it can be.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>.</exception>
    public long Size(string key, long fallback, long least = 1, long most = MaxSize) => Integer(key) is not { } size ? fallback
        : size >= least && size <= most ? size
        : throw Invalid(key, string.Create(CultureInfo.InvariantCulture, $"a whole number from {least} to {most}"));

    /// <summary>An integer that the architecture can't do without.</summary>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    public long RequiredInteger(string key) => Integer(key) ?? throw new PeftException(
        "ModelConfigIncomplete", $"The model's configuration has no '{key}', which '{ModelType}' needs.");

    /// <summary>A number, or null when absent.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: something else.</exception>
    public double? Number(string key) => Node(key) is { } node ? Number(key, node) : null;

    /// <summary>A truth value, or null when absent.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: something else.</exception>
    public bool? Boolean(string key) => Node(key) switch
    {
        null => null,
        JsonValue value when value.TryGetValue<bool>(out var flag) => flag,
        _ => throw Invalid(key, "true or false"),
    };

    /// <summary>One or several token ids (<c>eos_token_id</c> may be either).</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: something else.</exception>
    public IReadOnlyList<int> TokenIds(string key) => Node(key) switch
    {
        null => [],
        JsonArray several => [.. several.Select(id => TokenId(key, id))],
        var one => [TokenId(key, one)],
    };

    /// <summary>Numbers, or null when there is no list.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: the list holds something else.</exception>
    public IReadOnlyList<double>? Numbers(string key) => Node(key) is JsonArray list ? [.. list.Select(entry => Number(key, entry))] : null;

    private string NameOf(string key) => _family?.OtherNames.GetValueOrDefault(key) is { } other && Document.ContainsKey(other) ? other : key;

    /// <summary>Texts, or null when there is no list.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: the list holds something else.</exception>
    public IReadOnlyList<string>? Texts(string key) => Node(key) is JsonArray list
        ? [.. list.Select(entry => entry is JsonValue value && value.TryGetValue<string>(out var text) ? text : throw Invalid(key, "a list of texts"))]
        : null;

    /// <summary>What a list says of a layer (<c>layer_types</c>), or null where there is no list or it ends before.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: the list holds something else.</exception>
    public string? TextOf(string key, int layer) => Texts(key) is { } texts && layer < texts.Count ? texts[layer] : null;

    private static int TokenId(string key, JsonNode? node) => Whole(key, Number(key, node)) is var id and >= int.MinValue and <= int.MaxValue
        ? (int)id
        : throw Invalid(key, "a token's id");

    private static long Whole(string key, double number) => number is >= -MaxWhole and <= MaxWhole && Math.Truncate(number) == number
        ? (long)number
        : throw Invalid(key, "a whole number");

    /// <summary>A number, whatever type it has where a configuration was made in code; null for anything else.</summary>
    internal static double? NumberOf(JsonNode? node) => node is not JsonValue value || value.GetValueKind() != JsonValueKind.Number ? null
        : value.TryGetValue<double>(out var real) ? real
        : double.Parse(value.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture);

    private static double Number(string key, JsonNode? node) => InRange(key, NumberOf(node) ?? throw Invalid(key, "a number"));

    /// <summary>Layers compute in float32 at most, where a larger number is none. An infinite one is a limit that isn't there.</summary>
    private static double InRange(string key, double number) => double.IsFinite(number) && Math.Abs(number) > float.MaxValue ? throw Invalid(key, "a number that float32 can hold") : number;

    private static PeftException Invalid(string key, string expected) => new("ModelConfigInvalid", $"'{key}' of the model's configuration must be {expected}.")
    {
        Target = key,
    };
}
