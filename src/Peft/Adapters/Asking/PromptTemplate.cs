using System.Text;

namespace Peft.Adapters.Asking;

/// <summary>
/// Makes a prompt of a row: text with the names of columns in braces (<c>{instruction}</c>); doubled braces are braces. It is part of
/// the <see cref="PromptForm"/> that is saved beside the adapter, since whoever uses the adapter has to ask the same way.
/// </summary>
/// <param name="Text">The prompt.</param>
/// <param name="TextWithoutInput">The prompt for rows whose <c>input</c> is empty; null is the same one.</param>
public sealed record PromptTemplate(string Text, string? TextWithoutInput = null)
{
    /// <summary>What rows with an instruction get unless told otherwise: headed sections for the instruction, its input and the response.</summary>
    public static PromptTemplate Instruction { get; } = new(
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n");

    /// <summary>The names in braces, each once, in order.</summary>
    /// <exception cref="PeftException"><c>PromptTemplateInvalid</c>.</exception>
    public IReadOnlyList<string> Names
    {
        get
        {
            List<string> names = [];
            foreach (var hasInput in (bool[])[true, false])
            {
                Render(name => { names.Add(name); return string.Empty; }, hasInput);
            }

            return [.. names.Distinct(StringComparer.Ordinal)];
        }
    }

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

    private static PeftException Invalid(string text, int position) =>
        new("PromptTemplateInvalid", $"The prompt template has a brace at position {position} that belongs to no column: '{text}'.")
        {
            Target = text,
            RecommendedAction = "Write {column} for a column's text, and {{ or }} for a brace.",
        };

    /// <inheritdoc/>
    public override string ToString() => Text;
}
