using System.Text.Json;
using Peft.Adapters.Asking;
using Peft.Files;
using Peft.Tokenization;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Training.Data;

/// <summary>Makes examples of rows: text, tokens, and which of them carry loss.</summary>
/// <param name="columns">Which columns play which part.</param>
/// <param name="template">Makes the prompt, or null where the prompt column is the prompt.</param>
/// <param name="loss">Which tokens carry loss.</param>
/// <param name="tokenizer">The model's tokenizer.</param>
/// <param name="cancellation">Ends a chat template's rendering.</param>
/// <param name="maxLength">Where examples will be cut, so that nothing is found out about what lies behind; null for nowhere.</param>
/// <param name="labels">The classes of the model's head; null where they have no names.</param>
internal sealed class ExampleBuilder(
    DatasetColumns columns,
    PromptTemplate? template,
    LossTokens loss,
    Tokenizer tokenizer,
    CancellationToken cancellation,
    int? maxLength = null,
    ModelLabels? labels = null)
{
    private const string EveryToken = "every token carries loss";

    /// <summary>Which columns play which part.</summary>
    public DatasetColumns Columns => columns;

    /// <summary>Makes the example of a row, uncut.</summary>
    /// <param name="row">The row.</param>
    /// <returns>The example.</returns>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c> or <c>ChatTemplateWithoutMarks</c>, or what the chat template throws.</exception>
    public TrainingExample Build(TrainingRow row)
    {
        var example = columns.Kind.Build(this, row);
        return columns[ColumnRole.TaskId] is { } task ? example with { TaskId = row.OptionalWhole(task) } : example;
    }

    /// <summary>Makes examples of rows with labels.</summary>
    public LabelledExamples Labelled => new(columns, tokenizer, labels ?? ModelLabels.Unknown);

    /// <summary>A text that is read, and one that is written.</summary>
    /// <param name="row">The row.</param>
    /// <param name="answer">The part that is written.</param>
    public TrainingExample TextToText(TrainingRow row, ColumnRole answer) =>
        new(row, tokenizer.EncodeIds(Prompt(row)), tokenizer.EncodeIds(row.Text(columns[answer]!)), $"'{columns[answer]}' is written and carries loss, the prompt is read") { Kind = ExampleKind.SequenceToSequence };

    /// <summary>What stands before a row's answer, and the answer; of a conversation the assistant's last message.</summary>
    /// <param name="row">The row.</param>
    /// <param name="index">Its index.</param>
    /// <returns>The question; null where the row is a whole text, or its conversation holds no answer.</returns>
    public DatasetQuestion? Question(TrainingRow row, int index)
    {
        if (columns[ColumnRole.Messages] is { } column)
        {
            return Question(row, row.Messages(column), index);
        }

        if ((columns[ColumnRole.Completion] ?? columns[ColumnRole.Output] ?? columns[ColumnRole.Chosen]) is not { } answer || !HasPrompt)
        {
            return null;
        }

        if (columns.IsConversation(row))
        {
            return Question(row, [.. row.Messages(columns.Prompt!), .. row.Messages(answer)], index);
        }

        var prompt = Prompt(row);
        return new DatasetQuestion(index, prompt, tokenizer.EncodeWhole(prompt), row.Text(answer));
    }

    private DatasetQuestion? Question(TrainingRow row, IReadOnlyList<ChatMessage> messages, int index)
    {
        var last = messages.Count - 1;
        while (last >= 0 && messages[last].Role != "assistant")
        {
            last--;
        }

        if (last < 1)
        {
            return null;
        }

        var prompt = Render(row, [.. messages.Take(last)], addGenerationPrompt: true);
        return new DatasetQuestion(index, prompt, tokenizer.EncodeIds(prompt, addSpecialTokens: false), messages[last].Content ?? "");
    }

    /// <summary>A row as a prompt that the model answers itself: what stands before an answer that the row may have, or the row's text.</summary>
    public (string Text, int[] Ids) Unanswered(TrainingRow row, int index)
    {
        if (Question(row, index) is { } question)
        {
            return (question.Prompt, [.. question.PromptIds]);
        }

        if ((columns[ColumnRole.Messages] ?? (columns.IsConversation(row) ? columns.Prompt : null)) is { } conversation)
        {
            var rendered = Render(row, row.Messages(conversation), addGenerationPrompt: true);
            return (rendered, tokenizer.EncodeIds(rendered, addSpecialTokens: false));
        }

        var text = HasPrompt ? Prompt(row) : row.Text(columns[ColumnRole.Text] ?? "prompt");
        return (text, tokenizer.EncodeWhole(text));
    }

    /// <summary>A prompt that the model answers itself.</summary>
    public TrainingExample PromptAlone(TrainingRow row)
    {
        var ids = Unanswered(row, 0).Ids;
        return new TrainingExample(row, ids, [.. ids.Select(static _ => TrainingExample.Ignored)], "nothing carries loss: the model answers by itself") { Kind = ExampleKind.Rated };
    }

    /// <summary>A whole text.</summary>
    public TrainingExample Whole(TrainingRow row)
    {
        var ids = tokenizer.EncodeWhole(WithEnd(row.Text(columns[ColumnRole.Text]!)));
        return new TrainingExample(row, ids, ids, EveryToken);
    }

    /// <summary>A prompt and an answer; both are tokenised as the model will see them, the prompt also alone.</summary>
    /// <param name="row">The row.</param>
    /// <param name="answer">The part that answers.</param>
    public TrainingExample Answer(TrainingRow row, ColumnRole answer)
    {
        (var prompt, var ids) = PromptAndAnswer(row, columns[answer]!);
        var example = loss == LossTokens.All
            ? new TrainingExample(row, ids, ids, EveryToken)
            : new TrainingExample(row, ids, Labels(ids, prompt), $"'{columns[answer]}' carries loss, the prompt does not");
        return example with { Remarks = Remarks(row, columns[answer]!) };
    }

    private ExampleRemarks Remarks(TrainingRow row, string answer)
    {
        if (columns.IsConversation(row))
        {
            return ExampleRemarks.None;
        }

        var text = row.Text(answer);
        return string.IsNullOrWhiteSpace(text) ? ExampleRemarks.AnswerEmpty
            : Prompt(row) is { Length: > 0 } prompt && Touches(prompt[^1], text[0]) ? ExampleRemarks.AnswerTouches
            : ExampleRemarks.None;

        // Letters of scripts that part words by spaces, behind a word or the mark that ends one.
        static bool Touches(char last, char first) => first < '\u0590' && char.IsLetterOrDigit(first) && last < '\u0590' && (char.IsLetterOrDigit(last) || last is '.' or ',' or ':' or ';' or '?' or '!');
    }

    /// <summary>An answer that is good or bad.</summary>
    public TrainingExample Judged(TrainingRow row)
    {
        (var prompt, var ids) = PromptAndAnswer(row, columns[ColumnRole.Completion]!);
        var isGood = row.Truth(columns[ColumnRole.Label]!);
        return new TrainingExample(row, ids, Labels(ids, prompt), $"'{columns[ColumnRole.Completion]}' is {(isGood ? "a good" : "a bad")} answer") { IsDesirable = isGood };
    }

    /// <summary>Two answers to a prompt; where there is no column for it, what both begin with is the prompt.</summary>
    public TrainingExample Pair(TrainingRow row)
    {
        (var chosen, var rejected) = (columns[ColumnRole.Chosen]!, columns[ColumnRole.Rejected]!);
        (var prompt, var ids) = PromptAndAnswer(row, chosen);
        (_, var others) = PromptAndAnswer(row, rejected);
        prompt = HasPrompt ? prompt : others;
        return new TrainingExample(row, ids, Labels(ids, prompt), $"'{chosen}' is better than '{rejected}'")
        {
            Rejected = new TokenRow(others, Labels(others, HasPrompt ? prompt : ids)),
            Margin = columns[ColumnRole.Margin] is { } margin ? row.OptionalNumber(margin) ?? 0 : null,
        };
    }

    /// <summary>Two texts that mean the same, or so much of the same as a column says.</summary>
    public TrainingExample Similar(TrainingRow row)
    {
        var (anchor, positive) = (columns[ColumnRole.Anchor]!, columns[ColumnRole.Positive]!);
        var (ids, others) = (tokenizer.EncodeIds(row.Text(anchor)), tokenizer.EncodeIds(row.Text(positive)));
        var negative = columns[ColumnRole.Negative];
        return new TrainingExample(row, ids, ids, $"'{anchor}' and '{positive}' are read, and how alike they are is learnt{(negative is null ? "" : $"; '{negative}' is read as what they are not")}")
        {
            Negatives = negative is null ? [] : [.. row.Texts(negative).Select(text => tokenizer.EncodeIds(text))],
            Kind = ExampleKind.Similar,
            Rejected = new TokenRow(others, others),
            Margin = columns[ColumnRole.Similarity] is { } similarity ? row.OptionalNumber(similarity) : null,
        };
    }

    /// <summary>A conversation.</summary>
    public TrainingExample Conversation(TrainingRow row) => Conversation(row, row.Messages(columns[ColumnRole.Messages]!));

    /// <summary>The tokens of a prompt alone, and of the prompt with an answer. A chat template spells out all special tokens itself.</summary>
    private (int[] Prompt, int[] Whole) PromptAndAnswer(TrainingRow row, string answer)
    {
        if (!columns.IsConversation(row))
        {
            var prompt = Prompt(row);
            return (tokenizer.EncodeWhole(prompt), tokenizer.EncodeWhole(WithEnd(prompt + row.Text(answer))));
        }

        var messages = columns.Prompt is { } column ? row.Messages(column) : [];
        return (
            messages.Count == 0 ? [] : tokenizer.EncodeIds(Render(row, messages, addGenerationPrompt: true), addSpecialTokens: false),
            tokenizer.EncodeIds(Render(row, [.. messages, .. row.Messages(answer)]), addSpecialTokens: false));
    }

    /// <summary>The answer starts where the two sequences part, which may be before the prompt's end.</summary>
    private static int[] Labels(int[] ids, int[] prompt)
    {
        int[] labels = [.. ids];
        labels.AsSpan(0, prompt.AsSpan().CommonPrefixLength(ids)).Fill(TrainingExample.Ignored);
        return labels;
    }

    private const string ToolCalls = "tool_calls";

    private TrainingExample Conversation(TrainingRow row, IReadOnlyList<ChatMessage> messages)
    {
        var rendered = tokenizer.RenderChat(messages, Options(row), cancellation);
        var encoding = tokenizer.Encode(rendered.Text, addSpecialTokens: false);
        var ids = encoding.Ids;
        if (loss == LossTokens.All)
        {
            return new TrainingExample(row, ids, ids, EveryToken);
        }

        var cut = maxLength is { } limit && limit < ids.Length ? encoding.Offsets[limit].Start : rendered.Text.Length;
        var said = Counted(rendered.GenerationSpans.Count > 0 ? rendered.GenerationSpans : AssistantSpans(row, messages, rendered.Text, cut), rendered.Text.Length);
        var labels = new int[ids.Length];
        for (var i = 0; i < ids.Length; i++)
        {
            (var start, var end) = encoding.Offsets[i];
            labels[i] = end > start && said[end] > said[start] ? ids[i] : TrainingExample.Ignored;
        }

        return new TrainingExample(row, ids, labels, "the assistant's messages carry loss, the others do not")
        {
            Remarks = (messages[^1].Role == "assistant" ? ExampleRemarks.None : ExampleRemarks.IdleTail) | (LeavesToolsOut(row, messages, rendered.Text) ? ExampleRemarks.ToolsLeftOut : ExampleRemarks.None),
        };
    }

    /// <summary>Whether the conversation reads the same without its tools, or without the calls of them.</summary>
    private bool LeavesToolsOut(TrainingRow row, IReadOnlyList<ChatMessage> messages, string text)
    {
        try
        {
            var options = Options(row);
            return (options.Tools is not null && tokenizer.RenderChat(messages, options with { Tools = null }, cancellation).Text == text)
                || (messages.Any(Calls) && Render(row, [.. messages.Select(static message => Calls(message) ? message.WithField(ToolCalls, Array.Empty<object?>()) : message)]) == text);
        }
        catch (TemplateException)
        {
            // A template that misses them knows them.
            return false;
        }

        static bool Calls(ChatMessage message) => message.Fields.Get(ToolCalls) is not null;
    }

    /// <summary>How many characters before each position lie in spans.</summary>
    private static int[] Counted(IReadOnlyList<(int Start, int End)> spans, int length)
    {
        var counts = new int[length + 1];
        foreach (var (start, end) in spans)
        {
            counts.AsSpan(start + 1, end - start).Fill(1);
        }

        for (var i = 1; i <= length; i++)
        {
            counts[i] += counts[i - 1];
        }

        return counts;
    }

    /// <summary>
    /// For templates that mark nothing: an assistant's turn is learnt from where its content begins, which is where the conversation parts from
    /// one with another content, to the end of what the message adds to the text. Each turn takes the conversation up to it twice, so what lies behind
    /// the cut is left alone.
    /// </summary>
    private List<(int Start, int End)> AssistantSpans(TrainingRow row, IReadOnlyList<ChatMessage> messages, string text, int cut)
    {
        var spans = new List<(int Start, int End)>();
        for (var i = 0; i < messages.Count && (spans.Count == 0 || spans[^1].End < cut); i++)
        {
            if (messages[i].Role != "assistant")
            {
                continue;
            }

            var closed = Render(row, [.. messages.Take(i + 1)]);
            if (!text.StartsWith(closed, StringComparison.Ordinal))
            {
                throw new PeftException("ChatTemplateWithoutMarks", $"{row.Place}: the model's chat template marks no assistant tokens and changes earlier messages with later ones, so that what the assistant says can't be told from the rest.")
                {
                    Target = row,
                    RecommendedAction = "Let every token carry loss, or give rows with prompt and completion.",
                };
            }

            var other = messages[i].Content?.TrimStart().StartsWith('a') == true ? "b" : "a";
            var changed = Render(row, [.. messages.Take(i), messages[i].WithField("content", other)]);
            spans.Add((closed.AsSpan().CommonPrefixLength(changed), closed.Length));
        }

        return spans;
    }

    /// <summary>The conversation as text; tools that stand beside it are handed to the template.</summary>
    private string Render(TrainingRow row, IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = false) =>
        tokenizer.RenderChat(messages, Options(row) with { AddGenerationPrompt = addGenerationPrompt }, cancellation).Text;

    private static ChatTemplateOptions Options(TrainingRow row) => new() { Tools = Tools(row), JoinTextParts = true };

    /// <summary>The tools that a row's conversation may call: a list, or JSON with one.</summary>
    private static object? Tools(TrainingRow row)
    {
        if (row.Values.GetValueOrDefault("tools") is not string text)
        {
            return row.Values.GetValueOrDefault("tools");
        }

        if (string.IsNullOrWhiteSpace(text))
        {
            return null;
        }

        try
        {
            using var document = JsonDocument.Parse(text);
            return document.RootElement.ValueKind is JsonValueKind.Array ? RowReader.Plain(document.RootElement) : throw row.Error("tools", "a list of tools is needed.");
        }
        catch (JsonException error)
        {
            throw row.Error("tools", $"this is not valid JSON: {JsonFile.Reason(error)}");
        }
    }

    private bool HasPrompt => columns.Prompt is not null || template is not null;

    private string Prompt(TrainingRow row)
    {
        if (template is null)
        {
            return columns.Prompt is { } plain ? row.Text(plain) : string.Empty;
        }

        var input = columns[ColumnRole.Input] is { } column ? row.OptionalText(column) : string.Empty;
        return template.Render(Value, hasInput: input.Length > 0);

        // The parts go by their usual names in a template, whatever the columns are called.
        string Value(string name) => name switch
        {
            "input" => input,
            "instruction" or "prompt" when columns.Prompt is { } prompt && DatasetColumns.Named([.. row.Values.Keys], name) is null => row.Text(prompt),
            _ => row.Text(DatasetColumns.Named([.. row.Values.Keys], name) ?? name),
        };
    }

    private string WithEnd(string text) => tokenizer.EosToken is { Length: > 0 } end && !text.EndsWith(end, StringComparison.Ordinal) ? text + end : text;
}
