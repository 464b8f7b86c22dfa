using System.Collections;
using System.Globalization;
using System.Management.Automation;
using System.Text.Json;
using Peft.Generation;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Cmdlets.Arguments;

/// <summary>What comes down a pipeline as text: texts, objects that have one, and messages of a conversation.</summary>
internal static class TextInput
{
    /// <summary>The text of an object of the pipeline.</summary>
    /// <exception cref="PeftException"><c>TextInvalid</c>.</exception>
    public static string Text(PSObject item) => item.BaseObject switch
    {
        string text => text,
        IFormattable figure => figure.ToString(null, CultureInfo.InvariantCulture),
        _ => Field(item, "Text")?.ToString() ?? throw new PeftException("TextInvalid", $"An object of type {item.BaseObject.GetType().Name} is no text, and has none as its Text.")
        {
            Target = item,
            RecommendedAction = "Give texts, files from Get-ChildItem, or objects with a Text.",
        },
    };

    /// <summary>The message that an object of the pipeline is: a table or an object with a role and a content, and with whatever other fields; null where it is none.</summary>
    public static ChatMessage? Message(PSObject item)
    {
        if (item.BaseObject is ChatMessage or ChatTurn)
        {
            return item.BaseObject as ChatMessage ?? ((ChatTurn)item.BaseObject).ToMessage();
        }

        if (item.BaseObject is not (IDictionary or PSCustomObject) || Field(item, "role") is null || Field(item, "content") is null)
        {
            return null;
        }

        var fields = new Dictionary<string, object?>(StringComparer.OrdinalIgnoreCase) { ["role"] = null, ["content"] = null };
        foreach (var (name, value) in DatasetRow.From(item))
        {
            fields[name] = value;
        }

        return ChatMessage.FromJson(JsonSerializer.SerializeToElement(fields));
    }

    private static object? Field(PSObject item, string name) => item.BaseObject is IDictionary table
        ? table.Keys.Cast<object>().FirstOrDefault(key => name.Equals(key as string, StringComparison.OrdinalIgnoreCase)) is { } key ? table[key] : null
        : item.Properties[name]?.Value;
}
