using System.Text.Json.Nodes;

namespace Peft.Training;

/// <summary>The free options of a schedule, an optimiser or an objective (<c>lr_scheduler_kwargs</c>, <c>optim_args</c>, <c>objective_args</c>): read by name, and a name that nobody read is an error.</summary>
public sealed class NamedOptions
{
    private readonly string _owner;
    private readonly JsonObject _values;
    private readonly HashSet<string> _read = [];

    /// <summary>Wraps the options of one schedule, optimiser or objective.</summary>
    /// <param name="owner">Whose options they are, for messages, such as <c>schedule 'cosine'</c>.</param>
    /// <param name="values">The options, or null for none.</param>
    public NamedOptions(string owner, JsonObject? values)
    {
        _owner = owner;
        _values = values ?? [];
    }

    /// <summary>A number, or null when it isn't given.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public double? Number(string name) => Read(name) switch
    {
        null => null,
        JsonValue value when value.GetValueKind() == System.Text.Json.JsonValueKind.Number => NumberOf(value),
        _ => throw Invalid(name, "a number"),
    };

    /// <summary>A whole number, or null when it isn't given.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public int? Integer(string name) => Number(name) switch
    {
        null => null,
        { } number when number == Math.Truncate(number) && Math.Abs(number) <= int.MaxValue => (int)number,
        _ => throw Invalid(name, "a whole number"),
    };

    /// <summary>A truth value, or null when it isn't given.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public bool? Flag(string name) => Read(name) switch
    {
        null => null,
        JsonValue value when value.TryGetValue<bool>(out var flag) => flag,
        _ => throw Invalid(name, "true or false"),
    };

    /// <summary>One of several words.</summary>
    /// <param name="name">The option.</param>
    /// <param name="allowed">What it may be; the first is the default.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public string Choice(string name, params ReadOnlySpan<string> allowed) => Read(name) switch
    {
        null => allowed[0],
        JsonValue value when value.TryGetValue<string>(out var word) && allowed.Contains(word) => word,
        _ => throw Invalid(name, $"one of {string.Join(", ", allowed.ToArray())}"),
    };

    /// <summary>Words in a list, or a single one; null when it isn't given.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public IReadOnlyList<string>? Words(string name) => Read(name) switch
    {
        null => null,
        JsonValue value when value.TryGetValue<string>(out var word) => [word],
        JsonArray list when list.All(static entry => entry is JsonValue value && value.TryGetValue<string>(out _)) => [.. list.Select(static entry => (string)entry!)],
        _ => throw Invalid(name, "a word or a list of words"),
    };

    /// <summary>Numbers in a list, or null when it isn't given.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public IReadOnlyList<double>? Numbers(string name) => Read(name) switch
    {
        null => null,
        JsonArray list when list.All(static entry => entry?.GetValueKind() == System.Text.Json.JsonValueKind.Number) => [.. list.Select(static entry => NumberOf(entry!))],
        _ => throw Invalid(name, "a list of numbers"),
    };

    /// <summary>A pair of numbers, such as betas.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: it is something else.</exception>
    public (double First, double Second)? Pair(string name) => Read(name) switch
    {
        null => null,
        JsonArray { Count: 2 } pair when pair.All(static entry => entry?.GetValueKind() == System.Text.Json.JsonValueKind.Number) => (NumberOf(pair[0]!), NumberOf(pair[1]!)),
        _ => throw Invalid(name, "two numbers"),
    };

    /// <summary>Refuses an option whose value can't be.</summary>
    /// <param name="holds">Whether it can.</param>
    /// <param name="name">The option.</param>
    /// <param name="expected">What it may be.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>.</exception>
    public void Require(bool holds, string name, string expected)
    {
        if (!holds)
        {
            throw Invalid(name, expected);
        }
    }

    /// <summary>Ends the reading: a name that was given and that nobody asked for is an error.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionUnknown</c>.</exception>
    public void RefuseOthers()
    {
        if (_values.FirstOrDefault(entry => !_read.Contains(entry.Key)).Key is { } unknown)
        {
            throw new PeftException(
                "TrainingOptionUnknown",
                $"The {_owner} has no option '{unknown}'. {(_read.Count == 0 ? "It takes none." : $"It takes {string.Join(", ", _read.Order(StringComparer.Ordinal))}.")}")
            {
                Target = unknown,
                RecommendedAction = "Leave it out, or correct its name.",
            };
        }
    }

    private JsonNode? Read(string name)
    {
        _read.Add(name);
        return _values[name];
    }

    /// <summary>A program may have put a whole number there, which is a value of its own type.</summary>
    private static double NumberOf(JsonNode number) => double.Parse(number.ToJsonString(), System.Globalization.CultureInfo.InvariantCulture);

    private PeftException Invalid(string name, string expected) =>
        new("TrainingOptionInvalid", $"Option '{name}' of the {_owner} must be {expected}, but is {_values[name]?.ToJsonString() ?? "absent"}.")
        {
            Target = name,
            RecommendedAction = "Give such a value, or leave the option out.",
        };
}
