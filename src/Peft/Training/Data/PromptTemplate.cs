using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Peft.Files;

namespace Peft.Training.Data;

/// <summary>
/// Makes a prompt of a row: text with the names of columns in braces (<c>{instruction}</c>); doubled braces are braces. It is saved
/// beside the adapter, since whoever uses the adapter has to ask the same way.
/// </summary>
/// <param name="Text">The prompt.</param>
/// <param name="TextWithoutInput">The prompt for rows whose <c>input</c> is empty; null is the same one.</param>
public sealed record PromptTemplate(
    [property: JsonPropertyName("prompt")] string Text,
    [property: JsonPropertyName("prompt_without_input")] string? TextWithoutInput = null)
{
    /// <summary>The file beside the adapter.</summary>
    public const string FileName = "prompt_template.json";

    /// <summary>What rows with an instruction get unless told otherwise: headed sections for the instruction, its input and the response.</summary>
    public static PromptTemplate Instruction { get; } = new(
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n");

    /// <summary>Fills in the columns.</summary>
    /// <param name="value">Gives a column's text.</param>
    /// <param name="hasInput">Whether the row has an input.</param>
    /// <returns>The prompt.</returns>
    /// <exception cref="PeftException"><c>PromptTemplateInvalid</c>: a brace that is never closed, or opens nothing.</exception>
    public string Render(Func<string, string> value, bool hasInput = true)
    {
        ArgumentNullException.ThrowIfNull(value);
        var text = hasInput ? Text : TextWithoutInput ?? Text;
        var prompt = new StringBuilder(text.Length * 2);
        for (var i = 0; i < text.Length; i++)
        {
            var character = text[i];
            if (character is '{' or '}' && i + 1 < text.Length && text[i + 1] == character)
            {
                prompt.Append(character);
                i++;
            }
            else if (character == '{')
            {
                var end = text.IndexOf('}', i);
                prompt.Append(end > i + 1 ? value(text[(i + 1)..end].Trim()) : throw Invalid(text, i));
                i = end;
            }
            else
            {
                prompt.Append(character != '}' ? character : throw Invalid(text, i));
            }
        }

        return prompt.ToString();
    }

    /// <summary>Saves the template into an adapter's folder.</summary>
    /// <param name="folder">The folder.</param>
    public void Save(string folder) => JsonFile.Write(Path.Combine(folder, FileName), this);

    /// <summary>Reads the template of an adapter's folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <returns>The template, or null where none was saved.</returns>
    /// <exception cref="PeftException"><c>PromptTemplateInvalid</c>, or what reading JSON throws.</exception>
    public static PromptTemplate? Load(string folder)
    {
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
        {
            return null;
        }

        var json = JsonFile.ReadObject(path);
        return json.TryGetProperty("prompt", out var prompt) && prompt.ValueKind == JsonValueKind.String
            ? json.Deserialize<PromptTemplate>()
            : throw new PeftException("PromptTemplateInvalid", $"'{path}' has no text 'prompt'.")
            {
                Target = path,
                RecommendedAction = "Put the template into a JSON object as \"prompt\", with columns in braces.",
            };
    }

    private static PeftException Invalid(string text, int position) =>
        new("PromptTemplateInvalid", $"The prompt template has a brace at position {position} that belongs to no column: '{text}'.")
        {
            Target = text,
            RecommendedAction = "Write {column} for a column's text, and {{ or }} for a brace.",
        };
}
