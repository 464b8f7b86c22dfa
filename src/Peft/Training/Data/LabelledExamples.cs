using System.Globalization;
using Peft.Tokenization;

namespace Peft.Training.Data;

/// <summary>Makes examples of rows for models that label: a row, its words, or where in it something stands.</summary>
internal sealed class LabelledExamples(DatasetColumns columns, Tokenizer tokenizer, ModelLabels labels)
{
    /// <summary>A text, or two, with what it is.</summary>
    public TrainingExample Classified(TrainingRow row)
    {
        var text = row.Text(columns[ColumnRole.Text]!);
        var encoding = columns[ColumnRole.TextPair] is { } pair ? tokenizer.Encode(text, row.Text(pair)) : tokenizer.Encode(text);
        var label = columns[ColumnRole.Label]!;
        return Of(row, encoding, [], $"'{label}' is learnt", ExampleKind.Classified) with { Target = labels.Target(row, label) };
    }

    /// <summary>Words with a class each; of a word of several tokens the first has it.</summary>
    public TrainingExample Tagged(TrainingRow row)
    {
        var (wordColumn, tagColumn) = (columns[ColumnRole.Words]!, columns[ColumnRole.Tags]!);
        string[] words = [.. row.List(wordColumn).Select(word => word as string ?? throw row.Error(wordColumn, "a list of words is needed."))];
        var tags = row.List(tagColumn);
        if (tags.Count != words.Length)
        {
            throw row.Error(tagColumn, string.Create(CultureInfo.InvariantCulture, $"it has {tags.Count} entries for {words.Length} words."));
        }

        var encoding = tokenizer.EncodeWords(words);
        var found = new int[encoding.Count];
        for (var i = 0; i < found.Length; i++)
        {
            var word = encoding.WordIds[i];
            found[i] = word < 0 || (i > 0 && encoding.WordIds[i - 1] == word) ? TrainingExample.Ignored : labels.Class(row, tagColumn, tags[word], mayBeIgnored: true);
        }

        return Of(row, encoding, found, $"'{tagColumn}' are learnt, each at its word's first token", ExampleKind.Tagged);
    }

    /// <summary>A question, and where in its context the answer stands; at the first token where it has none.</summary>
    public TrainingExample Span(TrainingRow row)
    {
        var context = row.Text(columns[ColumnRole.Context]!);
        var encoding = tokenizer.Encode(row.Text(columns[ColumnRole.Question]!), context);
        int[] found = [0, 0];
        if (Answer(row, context) is var (from, to) && to > from)
        {
            var inside = Enumerable.Range(0, encoding.Count)
                .Where(i => encoding.SequenceIds[i] == 1 && encoding.Offsets[i].Start < to && encoding.Offsets[i].End > from).ToArray();
            found = inside.Length == 0 ? found : [inside[0], inside[^1]];
        }

        return Of(row, encoding, found, $"'{columns[ColumnRole.Answer]}' is learnt: where in '{columns[ColumnRole.Context]}' it begins and ends", ExampleKind.Span);
    }

    private static TrainingExample Of(TrainingRow row, TokenEncoding encoding, int[] found, string rule, ExampleKind kind) => new(row, encoding.Ids, found, rule)
    {
        Kind = kind,
        TokenTypes = encoding.TypeIds.All(static type => type == 0) ? null : encoding.TypeIds,
    };

    /// <summary>Where the answer stands in its context, in UTF-16 units; (0, 0) for nowhere.</summary>
    private (int Start, int End) Answer(TrainingRow row, string context)
    {
        var column = columns[ColumnRole.Answer]!;
        var start = columns[ColumnRole.AnswerStart] is { } place ? row.OptionalWhole(place) : null;
        string text;
        if (row.Value(column) is IReadOnlyDictionary<string, object?> object_)
        {
            // SQuAD's lists: the first answer counts.
            text = First(object_.GetValueOrDefault("text")) as string ?? "";
            start = First(object_.GetValueOrDefault("answer_start")) switch { long number => (int)number, double number => (int)number, _ => start };
        }
        else
        {
            text = row.Text(column);
        }

        if (text.Length == 0)
        {
            return (0, 0);
        }

        var at = start is { } given ? Place(context, given) : context.IndexOf(text, StringComparison.Ordinal);
        return at >= 0 && at + text.Length <= context.Length && context.AsSpan(at, text.Length).SequenceEqual(text)
            ? (at, at + text.Length)
            : throw row.Error(column, "the answer doesn't stand in the context where the row says so.");
    }

    private static object? First(object? value) => value is IReadOnlyList<object?> list ? list.Count > 0 ? list[0] : null : value;

    /// <summary>The place of a character, as Python counts them, in UTF-16 units; -1 beyond the text.</summary>
    private static int Place(string text, int characters)
    {
        var at = 0;
        for (; characters > 0 && at < text.Length; characters--)
        {
            at += char.IsSurrogatePair(text, at) ? 2 : 1;
        }

        return characters == 0 ? at : -1;
    }
}
