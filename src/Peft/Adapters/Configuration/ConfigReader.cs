using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Targets;

namespace Peft.Adapters.Configuration;

/// <summary>Reads keys of an <c>adapter_config.json</c>, says by name which one has a value of the wrong kind, and keeps what nobody asked for.</summary>
public sealed class ConfigReader(JsonObject document, string origin)
{
    private readonly HashSet<string> _asked = ["peft_type", "peft_version", "inference_mode", "runtime_config"];

    /// <summary>An error about a key.</summary>
    public PeftException Invalid(string key, string what) => new("AdapterConfigInvalid", $"'{origin}': {key} {what}.")
    {
        Target = key,
        RecommendedAction = "Give it a value of that kind; a file that an adapter was saved into can be made by saving it again.",
    };

    /// <summary>The value as it is, or null when absent or null.</summary>
    public JsonNode? Node(string key)
    {
        _asked.Add(key);
        return document[key] is { } node && HoldsControl(node) ? throw Invalid(key, "holds a control character, which no name has") : document[key];
    }

    private static bool HoldsControl(JsonNode? node) => node switch
    {
        JsonObject entries => entries.Any(static entry => VisibleText.IsNeeded(entry.Key) || HoldsControl(entry.Value)),
        JsonArray items => items.Any(HoldsControl),
        JsonValue value => value.GetValueKind() == JsonValueKind.String && VisibleText.IsNeeded(value.GetValue<string>()),
        _ => false,
    };

    /// <summary>A text, or null.</summary>
    public string? Text(string key) => Node(key) switch
    {
        null => null,
        JsonValue value when value.GetValueKind() == JsonValueKind.String => value.GetValue<string>(),
        _ => throw Invalid(key, "should be a text"),
    };

    /// <summary>A text, or a truth value as Python's files have it among texts, spelled <c>true</c> or <c>false</c>.</summary>
    public string Spelling(string key) => Node(key)?.GetValueKind() switch
    {
        JsonValueKind.True => "true",
        JsonValueKind.False => "false",
        JsonValueKind.String => Text(key)!,
        _ => throw Invalid(key, "should be a text, true or false"),
    };

    /// <summary>A truth value.</summary>
    public bool Flag(string key) => Node(key)?.GetValueKind() switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Invalid(key, "should be true or false"),
    };

    /// <summary>A number.</summary>
    public double Number(string key) => Number(key, Node(key));

    /// <summary>A whole number.</summary>
    public int Integer(string key) => Integer(key, Node(key));

    /// <summary>Names, or a regular expression, or null.</summary>
    public ModuleNames? Names(string key) => Node(key) switch
    {
        null => null,
        JsonValue value when value.GetValueKind() == JsonValueKind.String => Named(value.GetValue<string>()),
        JsonArray => ModuleNames.Of(Strings(key)!),
        _ => throw Invalid(key, "should be a list of names or a regular expression"),
    };

    /// <summary>Whether a single value stands where a list may stand.</summary>
    public bool IsSingle(string key) => Node(key) is not (null or JsonArray);

    /// <summary>Texts (a single one may stand without a list), or null.</summary>
    public IReadOnlyList<string>? Strings(string key) => Node(key) switch
    {
        null => null,
        JsonValue value when value.GetValueKind() == JsonValueKind.String => [value.GetValue<string>()],
        JsonArray several when several.All(static node => node?.GetValueKind() == JsonValueKind.String) => [.. several.Select(static node => node!.GetValue<string>())],
        _ => throw Invalid(key, "should be a list of texts"),
    };

    /// <summary>Whole numbers (a single one may stand without a list), or null.</summary>
    public IReadOnlyList<int>? Integers(string key) => Node(key) switch
    {
        null => null,
        JsonArray several => [.. several.Select(node => Integer(key, node))],
        { } single => [Integer(key, single)],
    };

    /// <summary>Numbers by name; empty when absent or null.</summary>
    public IReadOnlyDictionary<string, double> NumbersByName(string key) => Node(key) switch
    {
        null => new Dictionary<string, double>(),
        JsonObject entries => entries.ToDictionary(static entry => entry.Key, entry => Number(key, entry.Value)),
        _ => throw Invalid(key, "should map names to numbers"),
    };

    /// <summary>Whole numbers by name; empty when absent or null.</summary>
    public IReadOnlyDictionary<string, int> IntegersByName(string key) => Node(key) switch
    {
        null => new Dictionary<string, int>(),
        JsonObject entries => entries.ToDictionary(static entry => entry.Key, entry => Integer(key, entry.Value)),
        _ => throw Invalid(key, "should map names to whole numbers"),
    };

    /// <summary>A table of settings as an object of a type.</summary>
    public object Object(string key, Type type)
    {
        try
        {
            return Node(key) is JsonObject settings ? settings.Deserialize(type)! : throw Invalid(key, "should be a table of settings");
        }
        catch (JsonException error)
        {
            throw Invalid(key, $"has a setting of the wrong kind ({error.Path})");
        }
    }

    /// <summary>Lists of whole numbers, or null.</summary>
    public IReadOnlyList<IReadOnlyList<int>>? IntegerLists(string key) => Node(key) switch
    {
        null => null,
        JsonArray lists when lists.All(static list => list is JsonArray) => [.. lists.Select(list => (IReadOnlyList<int>)[.. ((JsonArray)list!).Select(number => Integer(key, number))])],
        _ => throw Invalid(key, "should be a list of lists of whole numbers"),
    };

    /// <summary>Ids of tokens, or of tokens by module, or null.</summary>
    public TokenIndices? Tokens(string key) => Node(key) is JsonObject entries
        ? new TokenIndices(null, entries.ToDictionary(static entry => entry.Key, entry => entry.Value is JsonArray ids
            ? (IReadOnlyList<int>)[.. ids.Select(id => Integer(key, id))]
            : throw Invalid(key, "should be a list of ids, or map names of modules to such lists")))
        : Integers(key) is { } of ? new TokenIndices(of) : null;

    /// <summary>The keys that nobody asked for.</summary>
    public JsonObject Rest() =>
        new(document.Where(entry => !_asked.Contains(entry.Key)).Select(static entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone())));

    private static ModuleNames Named(string text) =>
        text.Equals("all-linear", StringComparison.OrdinalIgnoreCase) ? ModuleNames.AllLinear : text is PartNames.Attention or PartNames.Mlp ? ModuleNames.Of(text) : ModuleNames.Matching(text);

    private double Number(string key, JsonNode? node) => node?.GetValueKind() == JsonValueKind.Number
        && double.TryParse(node.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture, out var number)
        ? number
        : throw Invalid(key, "should be a number");

    private int Integer(string key, JsonNode? node) => Number(key, node) is var number && number == Math.Floor(number) && Math.Abs(number) <= int.MaxValue
        ? (int)number
        : throw Invalid(key, "should be a whole number");
}
