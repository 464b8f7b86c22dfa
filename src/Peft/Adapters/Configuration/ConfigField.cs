using System.Collections.Concurrent;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Targets;

namespace Peft.Adapters.Configuration;

/// <summary>A field of a method's configuration, as its property declares it.</summary>
public sealed class ConfigField
{
    private static readonly ConcurrentDictionary<Type, IReadOnlyList<ConfigField>> s_fields = [];

    private readonly ConfigFieldAttribute _declaration;

    private ConfigField(PropertyInfo property, object? standard)
    {
        Property = property;
        _declaration = property.GetCustomAttribute<ConfigFieldAttribute>(inherit: false)!;
        Default = standard;
    }

    /// <summary>The property that holds the value.</summary>
    public PropertyInfo Property { get; }

    /// <summary>The key in the file.</summary>
    public string Name => _declaration.Name;

    /// <summary>The value where nothing is said.</summary>
    public object? Default { get; }

    /// <summary>Name of the cmdlet's parameter.</summary>
    public string ParameterName => _declaration.Parameter ?? Property.Name;

    /// <summary>The cmdlet's default as help shows it; null where leaving the parameter out means what its summary says.</summary>
    public string? PresetText => _declaration.Preset ?? (Default is int or double or bool or Enum or string ? Write(Default)?.ToString() : null);

    /// <summary>What else the declaration says.</summary>
    public ConfigFieldAttribute Declaration => _declaration;

    /// <summary>Fields of a method, its own last.</summary>
    /// <param name="config">Type of the configuration, which can be made without arguments.</param>
    public static IReadOnlyList<ConfigField> Of(Type config) => s_fields.GetOrAdd(config, static type =>
    {
        var standard = Activator.CreateInstance(type);
        var without = type.GetCustomAttribute<ConfigWithoutAttribute>()?.Names ?? [];
        return
        [
            .. type.GetProperties().Where(static property => property.GetCustomAttribute<ConfigFieldAttribute>(inherit: false) is not null)
                .OrderBy(static property => Depth(property.DeclaringType!))
                .Select(property => new ConfigField(property, property.GetValue(standard)))
                .Where(field => !without.Contains(field.Name)),
        ];
    });

    /// <summary>Variants of a method that have no code, those of the classes it derives from among them.</summary>
    /// <param name="config">Type of the configuration.</param>
    public static IReadOnlyList<ConfigVariantAttribute> VariantsOf(Type config) => [.. config.GetCustomAttributes<ConfigVariantAttribute>(inherit: true)];

    /// <summary>The value as JSON, as PEFT spells it.</summary>
    public JsonNode? Write(object? value) => value switch
    {
        null => null,
        Enum choice when _declaration.Choices.Length > 0 => Spelled(_declaration.Choices[Convert.ToInt32(choice, CultureInfo.InvariantCulture)]),
        string text => _declaration.IsSpelling || _declaration.Choices.Length > 0 ? Spelled(text) : JsonValue.Create(text),
        bool truth => JsonValue.Create(truth),
        int whole => JsonValue.Create(whole),
        double number => _declaration.IsReal ? Real(number) : Number(number),
        ModuleNames names => names.Pattern is { } pattern ? JsonValue.Create(pattern) : Texts(names.Names!),
        IReadOnlyList<string> texts => Texts(texts),
        IReadOnlyList<int> numbers => new JsonArray([.. numbers.Select(static number => JsonValue.Create(number))]),
        IReadOnlyDictionary<string, int> table => Table(table),
        IReadOnlyDictionary<string, double> table => Table(table),
        IReadOnlyList<IReadOnlyList<int>> lists => new JsonArray([.. lists.Select(static list => new JsonArray([.. list.Select(static number => JsonValue.Create(number))]))]),
        TokenIndices tokens => tokens.ToJson(),
        JsonNode node => node.DeepClone(),
        _ => JsonSerializer.SerializeToNode(value, value.GetType()),
    };

    /// <summary>Reads the value, or gives the default where the file has none.</summary>
    internal object? Read(ConfigReader reader)
    {
        if (reader.Node(Name) is null)
        {
            return Default;
        }

        var type = Nullable.GetUnderlyingType(Property.PropertyType) ?? Property.PropertyType;
        return type.IsEnum ? Enum.ToObject(type, Choose(reader))
            : _declaration.Choices.Length > 0 ? _declaration.Choices[Choose(reader)]
            : _declaration.IsSpelling ? reader.Spelling(Name)
            : type == typeof(string) ? reader.Text(Name)
            : type == typeof(bool) ? reader.Flag(Name)
            : type == typeof(int) ? reader.Integer(Name)
            : type == typeof(double) ? reader.Number(Name)
            : type == typeof(ModuleNames) ? reader.Names(Name)
            : type == typeof(IReadOnlyList<string>) ? reader.Strings(Name)
            : type == typeof(IReadOnlyList<int>) ? reader.Integers(Name)
            : type == typeof(IReadOnlyDictionary<string, int>) ? reader.IntegersByName(Name)
            : type == typeof(IReadOnlyDictionary<string, double>) ? reader.NumbersByName(Name)
            : type == typeof(IReadOnlyList<IReadOnlyList<int>>) ? reader.IntegerLists(Name)
            : type == typeof(TokenIndices) ? reader.Tokens(Name)
            : type == typeof(JsonNode) ? reader.Node(Name)!.DeepClone()
            : reader.Object(Name, type);
    }

    /// <summary>Refuses numbers out of range and texts that are no choice.</summary>
    /// <exception cref="PeftException">The declaration's id.</exception>
    internal void Validate(object? value)
    {
        if (value is string text && _declaration.Choices.Length > 0 && !_declaration.Choices.Contains(text))
        {
            throw NoChoice(text);
        }

        var numbers = value switch
        {
            int whole => [whole],
            double number => [number],
            IReadOnlyList<int> several => several.Select(static whole => (double)whole),
            IReadOnlyDictionary<string, int> table => table.Values.Select(static whole => (double)whole),
            IReadOnlyDictionary<string, double> table => table.Values,
            TokenIndices tokens => (tokens.ByModule?.Values.SelectMany(static ids => ids) ?? tokens.OfEmbeddings!).Select(static id => (double)id),
            _ => Enumerable.Empty<double>(),
        };
        foreach (var number in numbers.Where(number => !(number >= _declaration.Minimum && number <= _declaration.Maximum)))
        {
            var range = double.IsInfinity(_declaration.Maximum) ? FormattableString.Invariant($"at least {_declaration.Minimum}")
                : FormattableString.Invariant($"from {_declaration.Minimum} to {_declaration.Maximum}");
            throw new PeftException(_declaration.ErrorId, FormattableString.Invariant($"{Name} has to be {range}; {number} was given."))
            {
                Target = Name,
                RecommendedAction = $"Give {Name} a value in this range, or leave it out.",
            };
        }
    }

    /// <summary>Index of the choice that the file names, in any case of letters.</summary>
    private int Choose(ConfigReader reader)
    {
        var text = reader.Spelling(Name);
        var index = Array.FindIndex(_declaration.Choices, choice => choice.Equals(text, StringComparison.OrdinalIgnoreCase));
        return index >= 0 ? index : throw NoChoice(text);
    }

    private PeftException NoChoice(string text) => new(
        _declaration.ErrorId, $"{Name} is '{text}'; it can be {string.Join(", ", _declaration.Choices[..^1])} or {_declaration.Choices[^1]}.") { Target = text };

    private static JsonValue Spelled(string choice) => choice switch
    {
        "true" => JsonValue.Create(true),
        "false" => JsonValue.Create(false),
        _ => JsonValue.Create(choice),
    };

    private static JsonArray Texts(IReadOnlyList<string> texts) => new([.. texts.Select(static text => JsonValue.Create(text))]);

    /// <summary>Patterns in their order, for the first that matches counts; whole numbers without a fraction.</summary>
    private static JsonObject Table<T>(IReadOnlyDictionary<string, T> table)
        where T : struct, IConvertible =>
        new(table.Select(static entry => KeyValuePair.Create(entry.Key, (JsonNode?)Number(entry.Value.ToDouble(CultureInfo.InvariantCulture)))));

    private static JsonNode Real(double value)
    {
        var text = value.ToString("R", CultureInfo.InvariantCulture).Replace('E', 'e');
        return JsonNode.Parse(value == Math.Floor(value) && !text.Contains('e', StringComparison.Ordinal) ? text + ".0" : text)!;
    }

    private static JsonValue Number(double value) => value == Math.Floor(value) && Math.Abs(value) < 1e15 ? JsonValue.Create((long)value) : JsonValue.Create(value);

    private static int Depth(Type type) => type.BaseType is { } parent ? Depth(parent) + 1 : 0;
}
