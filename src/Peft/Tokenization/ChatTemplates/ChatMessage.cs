using System.Text.Json;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>
/// One message of a conversation: named fields in order, of which <c>role</c> and <c>content</c> are the usual ones. Values are strings,
/// numbers, booleans, null, lists and nested objects, as in JSON.
/// </summary>
public sealed class ChatMessage
{
    /// <summary>A message with a role and a text.</summary>
    /// <param name="role">Who speaks: <c>system</c>, <c>user</c>, <c>assistant</c>, <c>tool</c>, or what else the template knows.</param>
    /// <param name="content">The text.</param>
    public ChatMessage(string role, string content)
    {
        Fields = new TemplateObject();
        Fields.Set("role", role);
        Fields.Set("content", content);
    }

    private ChatMessage(TemplateObject fields) => Fields = fields;

    /// <summary>The role, or an empty string.</summary>
    public string Role => Fields.Get("role") as string ?? string.Empty;

    /// <summary>The content where it is a text, else null.</summary>
    public string? Content => Fields.Get("content") as string;

    internal TemplateObject Fields { get; }

    /// <summary>A message from a JSON object.</summary>
    /// <param name="json">The object.</param>
    /// <exception cref="PeftException">It isn't an object.</exception>
    public static ChatMessage FromJson(JsonElement json) => TemplateValue.FromJson(json) is TemplateObject fields
        ? new ChatMessage(fields)
        : throw new PeftException("ChatMessageInvalid", $"A chat message should be an object with role and content, and is {json.ValueKind}.");

    /// <summary>A conversation from a JSON list of objects.</summary>
    public static IReadOnlyList<ChatMessage> ListFromJson(JsonElement json) => json.ValueKind == JsonValueKind.Array
        ? [.. json.EnumerateArray().Select(FromJson)]
        : throw new PeftException("ChatMessageInvalid", $"A conversation should be a list of messages, and is {json.ValueKind}.");

    /// <summary>The same message with all its texts changed.</summary>
    internal ChatMessage Map(Func<string, string> change) => new((TemplateObject)TemplateValue.Map(Fields, change)!);

    /// <summary>The same message with one more field.</summary>
    /// <param name="name">The field's name, such as <c>name</c> or <c>reasoning_content</c>.</param>
    /// <param name="value">A string, number, boolean, null, list or dictionary.</param>
    public ChatMessage WithField(string name, object? value)
    {
        var copy = new TemplateObject();
        foreach (var (key, old) in Fields)
        {
            copy.Set(key, old);
        }

        copy.Set(name, TemplateValue.From(value));
        return new ChatMessage(copy);
    }
}
