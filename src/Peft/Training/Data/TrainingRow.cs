using System.Globalization;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Training.Data;

/// <summary>A row as it was read.</summary>
/// <param name="Values">
/// Its values by column: strings, numbers (<see cref="long"/>, <see cref="double"/>), truth values, null, lists (<c>object?[]</c>)
/// and objects (<c>Dictionary&lt;string, object?&gt;</c>).
/// </param>
/// <param name="Origin">The file it came from, or what to call its source in a message.</param>
/// <param name="Line">The line it begins on, counted from 1; for rows that came from no file, their number.</param>
public sealed record TrainingRow(IReadOnlyDictionary<string, object?> Values, string Origin, int Line)
{
    /// <summary>In a mixture the data set that says how the row is understood; null for the one it stands in.</summary>
    internal TrainingDataset? Source { get; init; }

    /// <summary>The error of a row that can't be used.</summary>
    /// <param name="field">The column.</param>
    /// <param name="what">What is wrong with it.</param>
    /// <returns>An error with id <c>DatasetRowInvalid</c> that says file, line and field.</returns>
    public PeftException Error(string field, string what) => new("DatasetRowInvalid", $"{Place}, field '{field}': {what}")
    {
        Target = this,
        RecommendedAction = "Mend or remove the row.",
    };

    /// <inheritdoc/>
    public override string ToString() => Place;

    /// <summary>Where it stands, for people.</summary>
    public string Place => string.Create(CultureInfo.InvariantCulture, $"{Origin}, line {Line}");

    /// <summary>The text of a column; numbers and truth values are spelt as in JSON.</summary>
    /// <param name="column">The column.</param>
    /// <returns>The text.</returns>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: missing, null, or a list or object.</exception>
    public string Text(string column) => Values.GetValueOrDefault(column) switch
    {
        string text => text,
        bool truth => truth ? "true" : "false",
        null => throw Error(column, Values.ContainsKey(column) ? "it is null, but a text is needed." : "it is missing."),
        double real => PythonText.Float(real),
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => throw Error(column, "it is a list or an object, but a text is needed."),
    };

    /// <summary>The text of a column that may be missing.</summary>
    /// <param name="column">The column.</param>
    /// <returns>The text, empty where there is none.</returns>
    public string OptionalText(string column) => Values.GetValueOrDefault(column) is null ? string.Empty : Text(column);

    /// <summary>The texts of a column that may be missing: one, or a list of them.</summary>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: something else.</exception>
    public IReadOnlyList<string> Texts(string column) => Values.GetValueOrDefault(column) switch
    {
        null => [],
        IReadOnlyList<object?> list => [.. list.Select((item, i) => item as string ?? throw Error(string.Create(CultureInfo.InvariantCulture, $"{column}[{i}]"), "a text is needed."))],
        _ => [Text(column)],
    };

    /// <summary>The truth value of a column: true or false, 1 or 0, also as text.</summary>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: something else.</exception>
    public bool Truth(string column) => Text(column).ToUpperInvariant() switch
    {
        "TRUE" or "1" => true,
        "FALSE" or "0" => false,
        _ => throw Error(column, "true or false is needed."),
    };

    /// <summary>The number of a column, or null where there is none.</summary>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: something else.</exception>
    public double? OptionalNumber(string column) => Values.GetValueOrDefault(column) is null ? null
        : double.TryParse(Text(column), NumberStyles.Float, CultureInfo.InvariantCulture, out var number) && double.IsFinite(number) ? number
        : throw Error(column, "a number is needed.");

    /// <summary>The whole number of a column, or null where there is none.</summary>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: something else.</exception>
    public int? OptionalWhole(string column) => OptionalNumber(column) switch
    {
        null => null,
        >= 0 and <= int.MaxValue and var number when number == Math.Floor(number) => (int)number,
        _ => throw Error(column, "a whole number from 0 is needed."),
    };

    /// <summary>Whatever a column holds.</summary>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: missing or null.</exception>
    public object Value(string column) => Values.GetValueOrDefault(column) ?? throw Error(column, Values.ContainsKey(column) ? "it is null." : "it is missing.");

    /// <summary>The list of a column.</summary>
    /// <param name="column">The column.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: something else.</exception>
    public IReadOnlyList<object?> List(string column) => Value(column) as IReadOnlyList<object?> ?? throw Error(column, "a list is needed.");

    /// <summary>The conversation of a column.</summary>
    /// <param name="column">The column.</param>
    /// <returns>Its messages, with <c>role</c> and <c>content</c>; <c>from</c>/<c>value</c> pairs are turned into them.</returns>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>.</exception>
    public IReadOnlyList<ChatMessage> Messages(string column)
    {
        if (Values.GetValueOrDefault(column) is not IReadOnlyList<object?> list || list.Count == 0)
        {
            throw Error(column, "a list of messages is needed, each an object with 'role' and 'content'.");
        }

        var messages = new List<ChatMessage>(list.Count);
        if (Values.GetValueOrDefault("system") is string { Length: > 0 } system && !IsSystem(list[0]))
        {
            // ShareGPT's files may have the system's message in a column of its own.
            messages.Add(new ChatMessage("system", system));
        }

        for (var i = 0; i < list.Count; i++)
        {
            messages.Add(Message(list[i], column, i));
        }

        return messages;
    }

    private static bool IsSystem(object? item) => item is IReadOnlyDictionary<string, object?> fields && (fields.GetValueOrDefault("role") ?? fields.GetValueOrDefault("from")) is "system";

    private ChatMessage Message(object? item, string column, int index)
    {
        var field = string.Create(CultureInfo.InvariantCulture, $"{column}[{index}]");
        if (item is not IReadOnlyDictionary<string, object?> fields)
        {
            throw Error(field, "a message must be an object with 'role' and 'content'.");
        }

        if (fields.TryGetValue("from", out var from) && fields.TryGetValue("value", out var value) && !fields.ContainsKey("role"))
        {
            // ShareGPT's names; its speakers have names of their own as well.
            fields = new Dictionary<string, object?> { ["role"] = Speaker(from), ["content"] = value };
        }

        var role = fields.GetValueOrDefault("role") as string ?? throw Error(field, "it has no 'role'.");
        var message = new ChatMessage(role, string.Empty).WithField("content", fields.GetValueOrDefault("content"));
        return fields.Where(pair => pair.Key is not ("role" or "content")).Aggregate(message, (current, pair) => current.WithField(pair.Key, pair.Value));
    }

    private static object? Speaker(object? from) => from switch
    {
        "human" => "user",
        "gpt" or "chatgpt" or "bing" or "bard" or "function_call" => "assistant",
        "observation" or "function_response" => "tool",
        _ => from,
    };
}
