using Peft.Tests.Tokenization;
using Peft.Tokenization;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Rows for models that label, and for encoder-decoders: what of them is learnt, and how they become batches.</summary>
public class LabelledRowTests
{
    private static readonly Tokenizer s_tokenizer = TestTokenizers.Bytes();
    private static readonly ModelLabels s_labels = new(["bad", "good", "odd"], 3);

    [Fact]
    public void A_class_is_a_name_or_a_number()
    {
        var data = Tokenize(ExampleKind.Classified, s_labels, Row("text", "Hell", "label", "GOOD"), Row("text", "wor", "label", 2L), Row("text", "Hello", "label", "0"));
        using var batch = data.Collate([0, 1, 2], CPU);
        Assert.Equal([1, 2, 0], batch.Labels.data<long>().ToArray());
        Assert.Equal([3, 2], (long[])[batch.InputIds.size(0), batch.AttentionMask!.dim()]);
        Assert.Equal(3, batch.TargetCount);
        Refused("label", "'awful' is no class", ExampleKind.Classified, Row("text", "a", "label", "awful"));
        Refused("label", "'3' is no class", ExampleKind.Classified, Row("text", "a", "label", 3L));
    }

    [Fact]
    public void Several_classes_come_as_names_or_as_one_and_zero_for_each()
    {
        var data = Tokenize(ExampleKind.Classified, s_labels, Row("text", "a", "labels", Items("odd", "bad")), Row("text", "b", "labels", Items(0L, 1L, 1L)));
        using var batch = data.Collate([0, 1], CPU);
        Assert.Equal([1f, 0f, 1f, 0f, 1f, 1f], batch.Labels.data<float>().ToArray());
        Assert.Equal(6, batch.TargetCount);
    }

    [Fact]
    public void One_label_is_a_value()
    {
        var data = Tokenize(ExampleKind.Classified, new ModelLabels([], 1), Row("text", "a", "label", 2L), Row("text", "b", "label", 0.5));
        using var batch = data.Collate([0, 1], CPU);
        Assert.Equal([2f, 0.5f], batch.Labels.data<float>().ToArray());
    }

    [Fact]
    public void A_word_of_several_tokens_has_its_class_at_the_first()
    {
        var data = Tokenize(ExampleKind.Tagged, s_labels, Row("tokens", Items("Hello", "ab"), "ner_tags", Items("odd", 1L)));
        var example = data.Examples[0];
        Assert.Equal([.. s_tokenizer.EncodeWords(["Hello", "ab"]).Ids], example.InputIds);
        Assert.Equal([2, -100, 1, -100], example.Labels);
        Refused("ner_tags", "1 entries for 2 words", ExampleKind.Tagged, Row("tokens", Items("a", "b"), "ner_tags", Items(1L)));
    }

    [Fact]
    public void An_answer_is_its_first_and_last_token_in_the_context()
    {
        var answers = new Dictionary<string, object?> { ["text"] = Items("cd"), ["answer_start"] = Items(3L) };
        var nowhere = new Dictionary<string, object?> { ["text"] = Items(), ["answer_start"] = Items() };
        var data = Tokenize(
            ExampleKind.Span, null, Row("question", "q?", "context", "\U0001F600b cd e", "answers", answers), Row("question", "q?", "context", "ab", "answers", nowhere), Row("question", "q?", "context", "ab", "answers", "b"));
        var ids = s_tokenizer.Encode("q?", "\U0001F600b cd e").Ids;
        var example = data.Examples[0];
        Assert.Equal(ids, example.InputIds);
        Assert.Equal("cd", s_tokenizer.Decode(ids.AsSpan(example.Labels[0], example.Labels[1] - example.Labels[0] + 1)).TrimStart());
        Assert.Equal([0, 0], data.Examples[1].Labels);
        Assert.Equal([3, 3], data.Examples[2].Labels);
        using var left = Collator.Labelled([data.Examples[0], data.Examples[2]], 0, CPU, left: true);
        Assert.Equal(left.InputIds.size(1) - 1, left.Labels[1, 1].item<long>());
        answers["answer_start"] = Items(2L);
        Refused("answers", "doesn't stand", ExampleKind.Span, Row("question", "q?", "context", "\U0001F600b cd e", "answers", answers));
    }

    [Fact]
    public void A_text_that_is_written_has_a_length_of_its_own_and_is_filled_with_what_is_ignored()
    {
        var data = Tokenize(ExampleKind.SequenceToSequence, null, Row("prompt", "abc", "completion", "d"), Row("prompt", "e", "completion", "fghij"));
        using var batch = data.Collate([0, 1], CPU);
        Assert.Equal([2, 3], batch.InputIds.shape);
        Assert.Equal([2, 5], batch.Labels.shape);
        Assert.Equal(4, batch.Labels[0].eq(TrainingExample.Ignored).sum().item<long>());
        Assert.Equal(6, batch.TargetCount);
        Assert.Equal(10, data.Examples.Sum(static example => example.TokenCount));
    }

    [Fact]
    public void A_column_says_which_task_a_row_is()
    {
        var data = Tokenize(ExampleKind.Text, null, Row("text", "ab", "task_id", 1L), Row("text", "cd", "task_id", 0L));
        using var batch = data.Collate([0, 1], CPU);
        Assert.Equal([1, 0], batch.TaskIds!.data<long>().ToArray());
        Refused("task_id", "whole number", ExampleKind.Text, Row("text", "ab", "task_id", -1L));
    }

    private static TokenizedDataset Tokenize(ExampleKind kind, ModelLabels? labels, params IReadOnlyDictionary<string, object?>[] rows) =>
        TrainingDataset.FromRows(rows).Tokenize(s_tokenizer, new TokenizationOptions { Examples = kind, Labels = labels });

    private static void Refused(string field, string what, ExampleKind kind, IReadOnlyDictionary<string, object?> row)
    {
        var error = Assert.Throws<PeftException>(() => Tokenize(kind, s_labels, row));
        Assert.Equal("DatasetRowInvalid", error.ErrorId);
        Assert.Contains($"field '{field}'", error.Message, StringComparison.Ordinal);
        Assert.Contains(what, error.Message, StringComparison.Ordinal);
    }

    private static Dictionary<string, object?> Row(params object?[] pairs) => pairs.Chunk(2).ToDictionary(static pair => (string)pair[0]!, static pair => pair[1]);

    private static object?[] Items(params object?[] items) => items;
}
