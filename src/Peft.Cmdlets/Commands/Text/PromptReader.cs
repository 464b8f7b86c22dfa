using System.Collections;
using System.Management.Automation;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Generation;
using Peft.Tokenization;
using Peft.Tokenization.ChatTemplates;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Makes prompts of what a user gives: texts as they are or as messages, rows by the form that the adapters were trained with, conversations.</summary>
/// <param name="model">The model that is asked.</param>
/// <param name="form">The form; null where nobody knows one.</param>
/// <param name="chat">Whether texts are the user's messages.</param>
/// <param name="systemMessage">The system's message that a conversation begins with unless it has its own.</param>
internal sealed class PromptReader(PeftModel model, PromptForm? form, bool chat, string? systemMessage)
{
    private readonly Tokenizer _tokenizer = model.RequiredTokenizer;

    /// <summary>Why an answer to plain text may be poor, for people; null where the text is of the form that the adapter was trained with.</summary>
    /// <param name="prompt">The text.</param>
    /// <param name="adapter">What to call the adapter.</param>
    /// <param name="cancellation">Ends a chat template's rendering.</param>
    public string? HintAt(string prompt, string adapter, CancellationToken cancellation) => (form, chat) switch
    {
        (null, _) => null,
        ({ IsChat: true }, false) => prompt.EndsWith(Rendered([new("user", "?")], cancellation).Split('?')[^1], StringComparison.Ordinal)
            ? null
            : $"{adapter} was trained on conversations in the model's chat template, and is asked with a text as it stands; -Chat puts it into the template.",
        ({ IsChat: false } known, false) => known.Fits(prompt)
            ? null
            : $"{adapter} was trained on prompts of the form '{known}', and is asked otherwise. Rows get that form: -Row @{{ {string.Join("; ", known.ColumnNames.Select(static name => $"'{name}' = '…'"))} }}.",
        _ => null,
    };

    /// <summary>Whether an object is a text rather than a row.</summary>
    public static bool IsText(PSObject item) => item.BaseObject is string or IFormattable or FileInfo or GenerationResult
        || (item.BaseObject is not IDictionary && item.Properties["Prompt"]?.Value is string && item.BaseObject is not PSCustomObject);

    /// <summary>The prompt of one object.</summary>
    /// <param name="item">A text, a file, a row, or an object with a prompt.</param>
    /// <param name="cancellation">Ends a chat template's rendering.</param>
    /// <exception cref="PeftException"><c>PromptFormMissing</c>, <c>PromptColumnMissing</c> or <c>TextInvalid</c>.</exception>
    public ReadPrompt Read(PSObject item, CancellationToken cancellation)
    {
        if (!IsText(item) && item.BaseObject is IDictionary or PSCustomObject)
        {
            var row = DatasetRow.From(item);
            return Row(row, cancellation) with { TaskId = TaskOf(row) };
        }

        var text = item.BaseObject switch
        {
            FileInfo file => TextFile.Read(file.FullName),
            not GenerationResult when item.BaseObject is not string && item.Properties["Prompt"]?.Value is string prompt => prompt,
            _ => TextInput.Text(item),
        };
        return chat ? Conversation([new("user", text)], cancellation) : new ReadPrompt(text, TextGenerator.EncodePrompt(_tokenizer, text), IsPlain: true);
    }

    /// <summary>The prompt that a conversation is; the system's message goes in front unless it has its own.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="cancellation">Ends a chat template's rendering.</param>
    /// <param name="continuesFinal">Whether the last message is gone on with, in place of a new one of the assistant's.</param>
    public ReadPrompt Conversation(IReadOnlyList<ChatMessage> messages, CancellationToken cancellation, bool continuesFinal = false)
    {
        var system = systemMessage ?? (form is { IsChat: true } ? form.SystemMessage : null);
        ChatMessage[] whole = system is null || messages is [{ Role: "system" }, ..] ? [.. messages] : [new("system", system), .. messages];
        return new ReadPrompt(messages[^1].Content ?? "", _tokenizer.EncodeIds(Rendered(whole, cancellation, continuesFinal), addSpecialTokens: false), IsPlain: false);
    }

    private ReadPrompt Row(IReadOnlyDictionary<string, object?> row, CancellationToken cancellation)
    {
        if (form is { IsChat: true } || (form is null && chat))
        {
            return Conversation(MessagesOf(row), cancellation);
        }

        string? own = null;
        if (form is null || !form.ColumnNames.All(name => DatasetColumn(row, name) is not null))
        {
            own = DatasetColumn(row, "prompt") is { } column ? row[column] as string : null;
        }

        var text = own ?? (form ?? throw NoForm()).Render(row);
        return new ReadPrompt(text, TextGenerator.EncodePrompt(_tokenizer, text), IsPlain: own is not null);
    }

    private static int? TaskOf(IReadOnlyDictionary<string, object?> row) =>
        DatasetColumn(row, "task_id") is { } column ? new TrainingRow(row, "the row", 1).OptionalWhole(column) : null;

    /// <summary>The messages of a row: those of its column without the assistant's last ones, or its only text as the user's.</summary>
    private List<ChatMessage> MessagesOf(IReadOnlyDictionary<string, object?> row)
    {
        string[] columns = [.. form?.ColumnNames ?? [], "messages", "conversations", "prompt"];
        foreach (var column in columns.Select(name => DatasetColumn(row, name)).OfType<string>())
        {
            if (row[column] is string text)
            {
                return [new("user", text)];
            }

            var messages = new TrainingRow(row, "the row", 1).Messages(column).ToList();
            while (messages.Count > 1 && messages[^1].Role == "assistant")
            {
                messages.RemoveAt(messages.Count - 1);
            }

            return messages;
        }

        return TextInput.Message(new PSObject(row)) is { } single ? [single] : throw NoForm();
    }

    private string Rendered(IReadOnlyList<ChatMessage> messages, CancellationToken cancellation, bool continuesFinal = false) =>
        _tokenizer.RenderChat(messages, new ChatTemplateOptions { AddGenerationPrompt = !continuesFinal, ContinueFinalMessage = continuesFinal, JoinTextParts = true }, cancellation).Text;

    private static string? DatasetColumn(IReadOnlyDictionary<string, object?> row, string name) =>
        row.ContainsKey(name) ? name : row.Keys.FirstOrDefault(key => key.Equals(name, StringComparison.OrdinalIgnoreCase));

    private PeftException NoForm() => new("PromptFormMissing", $"Nothing says how a row becomes a prompt for '{model.Name}': no adapter that acts here remembers the form that it was trained with, or several do.")
    {
        Target = model.Name,
        RecommendedAction = "Give the form with -Template, such as 'Question: {question} Answer:', or name the one adapter to ask with -AdapterName.",
    };
}

/// <summary>A prompt, ready to be continued.</summary>
/// <param name="Text">The prompt as a person would say it.</param>
/// <param name="Ids">Its tokens.</param>
/// <param name="IsPlain">Whether it was taken as it stands.</param>
internal sealed record ReadPrompt(string Text, IReadOnlyList<int> Ids, bool IsPlain)
{
    /// <summary>Which of several tasks it is, where its row says so.</summary>
    public int? TaskId { get; init; }
}
