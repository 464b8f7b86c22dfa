using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Files;

namespace Peft.Adapters.Asking;

/// <summary>
/// How an adapter wants to be asked: what its training made prompts of. It is saved beside the adapter as <see cref="FileName"/> and read back with it.
/// Either a template makes the prompt of named values, or messages are put into the model's chat template.
/// </summary>
public sealed record PromptForm
{
    /// <summary>The file beside the adapter.</summary>
    public const string FileName = "prompt_template.json";

    private const string Checkpoints = "checkpoints";

    /// <summary>Makes the prompt; null for a conversation.</summary>
    public PromptTemplate? Template { get; init; }

    /// <summary>Whether prompts are messages in the model's chat template.</summary>
    public bool IsChat => Template is null;

    /// <summary>The system's message with which every conversation of the training began; null where there was none, or several.</summary>
    public string? SystemMessage { get; init; }

    /// <summary>The training's columns by the names that they go by in the template or, in a conversation, by <c>messages</c>.</summary>
    public IReadOnlyDictionary<string, string> Columns { get; init; } = new Dictionary<string, string>();

    /// <summary>The columns that a prompt is made of, in the template's order.</summary>
    public IReadOnlyList<string> ColumnNames => Template is null
        ? [.. Columns.Values]
        : [.. Template.Names.Select(name => Columns.GetValueOrDefault(name, name)).Distinct(StringComparer.OrdinalIgnoreCase)];

    /// <summary>Makes the prompt of a row.</summary>
    /// <param name="row">Values by column; their case doesn't count.</param>
    /// <returns>The prompt.</returns>
    /// <exception cref="PeftException"><c>PromptColumnMissing</c>: the row lacks a column; <c>PromptTemplateInvalid</c>.</exception>
    /// <exception cref="InvalidOperationException">It is a conversation.</exception>
    public string Render(IReadOnlyDictionary<string, object?> row)
    {
        ArgumentNullException.ThrowIfNull(row);
        var template = Template ?? throw new InvalidOperationException("A conversation is put into the model's chat template.");
        return template.Render(name => Value(row, name) ?? (name == "input" ? string.Empty : throw Missing(row, name)), Value(row, "input") is { Length: > 0 });
    }

    /// <summary>Whether a prompt could have been made by the template: it begins and ends as the template does.</summary>
    /// <param name="prompt">The prompt.</param>
    public bool Fits(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return Template is null || ((bool[])[true, false]).Any(hasInput =>
        {
            var parts = Template.Render(static _ => "\0", hasInput).Split('\0');
            return prompt.Length >= parts[0].Length + parts[^1].Length
                && prompt.StartsWith(parts[0], StringComparison.Ordinal) && prompt.EndsWith(parts[^1], StringComparison.Ordinal);
        });
    }

    /// <summary>Saves the form into an adapter's folder.</summary>
    /// <param name="folder">The folder.</param>
    public void Save(string folder)
    {
        var document = new JsonObject();
        void Add(string key, JsonNode? value)
        {
            if (value is not null)
            {
                document[key] = value;
            }
        }

        Add("prompt", Template?.Text);
        Add("prompt_without_input", Template?.TextWithoutInput);
        Add("chat", IsChat ? JsonValue.Create(true) : null);
        Add("system", SystemMessage);
        Add("columns", Columns.Count == 0 ? null : new JsonObject(Columns.Select(static entry => KeyValuePair.Create(entry.Key, (JsonNode?)entry.Value))));
        JsonFile.Write(Path.Combine(folder, FileName), document);
    }

    /// <summary>Reads the form of an adapter's folder; a checkpoint has that of its training.</summary>
    /// <param name="folder">The folder.</param>
    /// <returns>The form, or null where none was saved.</returns>
    /// <exception cref="PeftException"><c>PromptTemplateInvalid</c>, or what reading JSON throws.</exception>
    public static PromptForm? Load(string folder)
    {
        ArgumentNullException.ThrowIfNull(folder);
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
        {
            var parent = Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)));
            return Path.GetFileName(parent) == Checkpoints ? Load(Path.GetDirectoryName(parent)!) : null;
        }

        var json = JsonFile.ReadNode(path);
        var isChat = json["chat"] is JsonValue chat && chat.TryGetValue<bool>(out var value) && value;
        var form = new PromptForm
        {
            Template = isChat ? null : new PromptTemplate(Text(json, "prompt") ?? throw Invalid(path), Text(json, "prompt_without_input")),
            SystemMessage = Text(json, "system"),
            Columns = (json["columns"] as JsonObject ?? []).ToDictionary(static entry => entry.Key, entry => Text((JsonObject)json["columns"]!, entry.Key) ?? throw Invalid(path), StringComparer.Ordinal),
        };
        _ = form.ColumnNames;
        return form;
    }

    /// <inheritdoc/>
    public override string ToString() => Template?.Text ?? "chat";

    private string? Value(IReadOnlyDictionary<string, object?> row, string name)
    {
        var column = Find(row, name) ?? (Columns.GetValueOrDefault(name) is { } known ? Find(row, known) : null);
        return column is null ? null : row[column] switch
        {
            null => string.Empty,
            string text => text,
            bool truth => truth ? "true" : "false",
            IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
            var other => other.ToString(),
        };
    }

    private static string? Find(IReadOnlyDictionary<string, object?> row, string name) =>
        row.ContainsKey(name) ? name : row.Keys.FirstOrDefault(key => key.Equals(name, StringComparison.OrdinalIgnoreCase));

    private static string? Text(JsonObject json, string name) => json[name] is JsonValue value && value.TryGetValue<string>(out var text) ? text : null;

    private PeftException Missing(IReadOnlyDictionary<string, object?> row, string name) =>
        new("PromptColumnMissing", $"The prompts of this adapter are made of {string.Join(", ", ColumnNames)}; the row has {string.Join(", ", row.Keys)}.")
        {
            Target = name,
            RecommendedAction = $"Give the row a value for {Columns.GetValueOrDefault(name, name)}.",
        };

    private static PeftException Invalid(string path) => new("PromptTemplateInvalid", $"'{path}' has neither a text 'prompt' nor \"chat\": true, or columns that are no names.")
    {
        Target = path,
        RecommendedAction = "Put the template into a JSON object as \"prompt\", with columns in braces; for conversations \"chat\": true.",
    };
}
