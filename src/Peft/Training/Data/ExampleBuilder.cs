using Peft.Tokenization;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Training.Data;

/// <summary>Makes examples of rows: text, tokens, and which of them carry loss.</summary>
/// <param name="columns">Which columns play which part.</param>
/// <param name="template">Makes the prompt, or null where the prompt column is the prompt.</param>
/// <param name="loss">Which tokens carry loss.</param>
/// <param name="tokenizer">The model's tokenizer.</param>
/// <param name="cancellation">Ends a chat template's rendering.</param>
internal sealed class ExampleBuilder(DatasetColumns columns, PromptTemplate? template, LossTokens loss, Tokenizer tokenizer, CancellationToken cancellation)
{
    private const string EveryToken = "every token carries loss";

    /// <summary>Makes the example of a row, uncut.</summary>
    /// <param name="row">The row.</param>
    /// <returns>The example.</returns>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c> or <c>ChatTemplateWithoutMarks</c>, or what the chat template throws.</exception>
    public TrainingExample Build(TrainingRow row)
    {
        switch (columns.Kind)
        {
            case RowKind.Text:
                int[] ids = tokenizer.EncodeWhole(WithEnd(row.Text(columns.Text!)));
                return new TrainingExample(row, ids, ids, EveryToken);
            case RowKind.Messages:
                return Conversation(row, row.Messages(columns.Text!));
            default:
                bool isConversation = row.Values.GetValueOrDefault(columns.Prompt!) is IReadOnlyList<object?>;
                return isConversation ? ConversationalPair(row) : Pair(row);
        }
    }

    /// <summary>A prompt and its completion as texts; both are tokenised as the model will see them, the prompt also alone.</summary>
    private TrainingExample Pair(TrainingRow row)
    {
        string prompt = Prompt(row);
        int[] promptIds = tokenizer.EncodeWhole(prompt);
        int[] ids = tokenizer.EncodeWhole(WithEnd(prompt + row.Text(columns.Answer!)));
        return AfterPrompt(row, promptIds, ids);
    }

    /// <summary>A prompt and its completion as messages; a chat template spells out all special tokens itself.</summary>
    private TrainingExample ConversationalPair(TrainingRow row)
    {
        IReadOnlyList<ChatMessage> prompt = row.Messages(columns.Prompt!);
        int[] promptIds = tokenizer.EncodeIds(Render(row, prompt, addGenerationPrompt: true), addSpecialTokens: false);
        int[] ids = tokenizer.EncodeIds(Render(row, [.. prompt, .. row.Messages(columns.Answer!)]), addSpecialTokens: false);
        return AfterPrompt(row, promptIds, ids);
    }

    /// <summary>The completion starts where the two sequences part, which may be before the prompt's end.</summary>
    private TrainingExample AfterPrompt(TrainingRow row, int[] promptIds, int[] ids)
    {
        if (loss == LossTokens.All)
        {
            return new TrainingExample(row, ids, ids, EveryToken);
        }

        int start = promptIds.AsSpan().CommonPrefixLength(ids);
        int[] labels = [.. ids];
        labels.AsSpan(0, start).Fill(TrainingExample.Ignored);
        return new TrainingExample(row, ids, labels, $"'{columns.Answer}' carries loss, the prompt does not");
    }

    private TrainingExample Conversation(TrainingRow row, IReadOnlyList<ChatMessage> messages)
    {
        ChatRendering rendered = tokenizer.RenderChat(messages, Options(row), cancellation);
        TokenEncoding encoding = tokenizer.Encode(rendered.Text, addSpecialTokens: false);
        int[] ids = encoding.Ids;
        if (loss == LossTokens.All)
        {
            return new TrainingExample(row, ids, ids, EveryToken);
        }

        IReadOnlyList<(int Start, int End)> spans = rendered.GenerationSpans.Count > 0 ? rendered.GenerationSpans : AssistantSpans(row, messages, rendered.Text);
        var labels = new int[ids.Length];
        for (int i = 0; i < ids.Length; i++)
        {
            (int start, int end) = encoding.Offsets[i];
            bool learned = end > start && spans.Any(span => start < span.End && end > span.Start);
            labels[i] = learned ? ids[i] : TrainingExample.Ignored;
        }

        return new TrainingExample(row, ids, labels, "the assistant's messages carry loss, the others do not");
    }

    /// <summary>
    /// For templates that mark nothing: an assistant's turn is learnt from where its content begins, which is where the conversation parts from
    /// one with another content, to the end of what the message adds to the text.
    /// </summary>
    private List<(int Start, int End)> AssistantSpans(TrainingRow row, IReadOnlyList<ChatMessage> messages, string text)
    {
        var spans = new List<(int Start, int End)>();
        for (int i = 0; i < messages.Count; i++)
        {
            if (messages[i].Role != "assistant")
            {
                continue;
            }

            string closed = Render(row, [.. messages.Take(i + 1)]);
            if (!text.StartsWith(closed, StringComparison.Ordinal))
            {
                throw new PeftException("ChatTemplateWithoutMarks", $"{row.Place}: the model's chat template marks no assistant tokens and changes earlier messages with later ones, so that what the assistant says can't be told from the rest.")
                {
                    Target = row,
                    RecommendedAction = "Let every token carry loss, or give rows with prompt and completion.",
                };
            }

            string other = messages[i].Content?.TrimStart().StartsWith('a') == true ? "b" : "a";
            string changed = Render(row, [.. messages.Take(i), messages[i].WithField("content", other)]);
            spans.Add((closed.AsSpan().CommonPrefixLength(changed), closed.Length));
        }

        return spans;
    }

    /// <summary>The conversation as text; tools that stand beside it are handed to the template.</summary>
    private string Render(TrainingRow row, IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = false) =>
        tokenizer.RenderChat(messages, Options(row) with { AddGenerationPrompt = addGenerationPrompt }, cancellation).Text;

    private static ChatTemplateOptions Options(TrainingRow row) => new() { Tools = row.Values.GetValueOrDefault("tools") };

    private string Prompt(TrainingRow row)
    {
        if (template is null)
        {
            return row.Text(columns.Prompt!);
        }

        string input = columns.Input is null ? string.Empty : row.OptionalText(columns.Input);
        return template.Render(Value, hasInput: input.Length > 0);

        // The parts go by their usual names in a template, whatever the columns are called.
        string Value(string name) => name switch
        {
            "input" => input,
            "instruction" or "prompt" when !row.Values.ContainsKey(name) => row.Text(columns.Prompt!),
            _ => row.Text(name),
        };
    }

    private string WithEnd(string text) => tokenizer.EosToken is { Length: > 0 } end && !text.EndsWith(end, StringComparison.Ordinal) ? text + end : text;
}
