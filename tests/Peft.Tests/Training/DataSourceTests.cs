using System.IO.Compression;
using System.Text;
using Peft.Tests.Tokenization;
using Peft.Tokenization;
using Peft.Training;
using Peft.Training.Data;
using ZstdSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Where rows come from: packed files, streams, the disk, mixtures; and what is said of them.</summary>
public sealed class DataSourceTests : IDisposable
{
    private const string Lines = "{\"prompt\":\"a b\",\"completion\":\" c\"}\n{\"prompt\":\"d\",\"completion\":\" e a\"}\n{\"prompt\":\"b\",\"completion\":\" c\"}\n";

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("a.jsonl.gz", Lines)]
    [InlineData("a.jsonl.zst", Lines)]
    [InlineData("a.tsv.gz", "prompt\tcompletion\na b\t c\nd\t e a\nb\t c\n")]
    [InlineData("a.csv.zst", "prompt,completion\na b, c\nd, e a\nb, c\n")]
    public void A_compressed_file_has_the_rows_of_what_is_in_it(string name, string content)
    {
        var data = TrainingDataset.FromFile(_folder.Write(name, Compressed(name, Encoding.UTF8.GetBytes(content))));
        Assert.Equal([("a b", " c"), ("d", " e a"), ("b", " c")], data.Rows.Select(static row => (row.Text("prompt"), row.Text("completion"))));
    }

    [Theory]
    [InlineData("a.jsonl.gz")]
    [InlineData("a.jsonl.zst")]
    public void A_compressed_file_that_is_damaged_is_said_to_be(string name)
    {
        var bytes = Compressed(name, Encoding.UTF8.GetBytes(string.Concat(Enumerable.Repeat(Lines, 400))));
        Assert.Equal("DatasetFileDamaged", Assert.Throws<PeftException>(() => TrainingDataset.FromFile(_folder.Write(name, bytes[..^20]))).ErrorId);
    }

    [Theory]
    [InlineData(DatasetFormat.Automatic, Lines)]
    [InlineData(DatasetFormat.Csv, "prompt,completion\na b, c\nd, e a\nb, c\n")]
    public void A_stream_is_read_as_its_first_line_or_the_user_says(DatasetFormat format, string content)
    {
        using var stream = new MemoryStream(Encoding.UTF8.GetBytes(content));
        Assert.Equal(["a b", "d", "b"], TrainingDataset.FromStream(stream, new DatasetOptions { Format = format }).Rows.Select(static row => row.Text("prompt")));
    }

    [Theory]
    [InlineData(Lines, ExampleKind.Text, PackingStrategy.None)]
    [InlineData(Lines, ExampleKind.Text, PackingStrategy.BestFitSplit)]
    [InlineData("{\"prompt\":\"a\",\"chosen\":\" b\",\"rejected\":\" c d\",\"margin\":0.5}\n{\"prompt\":\"b\",\"chosen\":\" c\",\"rejected\":\" d\",\"margin\":2}", ExampleKind.Pair, PackingStrategy.None)]
    [InlineData("{\"prompt\":\"a\",\"completion\":\" b\",\"label\":true}\n{\"prompt\":\"b\",\"completion\":\" d\",\"label\":false}", ExampleKind.Judged, PackingStrategy.None)]
    [InlineData("{\"text\":\"a b\",\"label\":1.5}\n{\"text\":\"b\",\"label\":2.0}", ExampleKind.Classified, PackingStrategy.None)]
    public void Rows_and_tokens_on_the_disk_are_those_in_memory(string content, ExampleKind kind, PackingStrategy packing)
    {
        var path = _folder.Write("a.jsonl", content);
        TokenizedDataset Tokenized(bool streams) => TrainingDataset.FromFile(path, new DatasetOptions { Streaming = streams })
            .Tokenize(Words("a b c d e </s>"), new TokenizationOptions { Examples = kind, MaxLength = 4, Packing = packing, Labels = kind == ExampleKind.Classified ? new ModelLabels([], 1) : null });
        var (stored, kept) = (Tokenized(true), Tokenized(false));
        Assert.Equal(kept.Fingerprint, stored.Fingerprint);
        Assert.Equal(kept.Messages, stored.Messages);
        Assert.Equal(kept.Examples.Select(static example => example.Row.Place), stored.Examples.Select(static example => example.Row.Place));
        for (var row = 0; row < kept.Count; row++)
        {
            using var scope = NewDisposeScope();
            var (a, b) = (kept.Collate([row], CPU), stored.Collate([row], CPU));
            Assert.Equal(a.InputIds.data<long>().ToArray(), b.InputIds.data<long>().ToArray());
            Assert.True(a.Labels.equal(b.Labels).all().item<bool>());
            Assert.Equal((a as JudgedBatch)?.Desirable, (b as JudgedBatch)?.Desirable);
            Assert.Equal((a as PairBatch)?.Margins?.item<float>(), (b as PairBatch)?.Margins?.item<float>());
        }
    }

    [Fact]
    public void Rows_on_the_disk_keep_the_kinds_of_their_values()
    {
        const string Row = """{"text":"x","whole":2,"real":2.0,"long":123456789012345678901234567890,"list":[1,null,{"deep":true}],"none":null}""";
        var path = _folder.Write("a.jsonl", Row);
        var (kept, stored) = (TrainingDataset.FromFile(path), TrainingDataset.FromFile(path, new DatasetOptions { Streaming = true }));
        Assert.Equal(kept.ColumnNames, stored.ColumnNames);
        Assert.Equivalent(kept.Rows[0].Values, stored.Rows[0].Values, strict: true);
        Assert.Equal("2.0", stored.Rows[0].Text("real"));
        Assert.Equal(1, stored.WithRows([0]).Count);
    }

    [Fact]
    public void A_mixture_has_the_shares_that_were_asked_for_and_each_row_is_understood_as_in_its_own_data_set()
    {
        var prompts = TrainingDataset.FromRows(Enumerable.Range(0, 60).Select(static _ => Row(("prompt", "a"), ("completion", " b"))));
        var texts = TrainingDataset.FromRows(Enumerable.Range(0, 10).Select(static _ => Row(("text", "c d"))));
        var mixed = TrainingDataset.Mix([prompts, texts], [3, 1]);
        var examples = mixed.Tokenize(Words("a b c d </s>")).Examples;
        Assert.Equal((40, 10), (mixed.Count, examples.Count(static example => example.Labels[0] != TrainingExample.Ignored)));
        Assert.Equal("PromptCompletion + Text", mixed.Layout);

        var repeated = TrainingDataset.Mix([prompts, texts], [3, 1], repeats: true);
        Assert.Equal((80, 60), (repeated.Count, repeated.Rows.Count(static row => row.Values.ContainsKey("prompt"))));
        Assert.Equal(70, TrainingDataset.Mix([prompts, texts]).Count);
        Assert.Equal("DatasetSharesInvalid", Assert.Throws<PeftException>(() => TrainingDataset.Mix([prompts, texts], [1])).ErrorId);
        Assert.Equal("DatasetKindUnfit", Assert.Throws<PeftException>(() => TrainingDataset.Mix([prompts, TrainingDataset.FromRows([Row(("chosen", "a"), ("rejected", "b"))])])).ErrorId);
    }

    [Theory]
    [InlineData("""{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}""", "ShareGPT")]
    [InlineData("""{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}""", "Chat")]
    [InlineData("""{"instruction":"a","input":"","output":"b"}""", "Alpaca")]
    [InlineData("""{"instruction":"a","context":"","response":"b","category":"c"}""", "Instruction")]
    [InlineData("""{"chosen":[{"role":"user","content":"a"}],"rejected":[{"role":"user","content":"b"}]}""", "Preference (chat)")]
    [InlineData("""{"prompt":"a","completion":"b"}""", "PromptCompletion")]
    public void The_layout_of_rows_is_told(string row, string layout) => Assert.Equal(layout, TrainingDataset.FromFile(_folder.Write("a.jsonl", row)).Layout);

    [Fact]
    public void The_speakers_of_ShareGPT_are_those_of_a_chat_and_its_system_message_may_stand_beside()
    {
        const string Row = """{"system":"s","conversations":[{"from":"human","value":"a"},{"from":"function_call","value":"{}"},{"from":"observation","value":"r"},{"from":"gpt","value":"b"}]}""";
        Assert.Equal(
            [("system", "s"), ("user", "a"), ("assistant", "{}"), ("tool", "r"), ("assistant", "b")],
            TrainingDataset.FromFile(_folder.Write("a.jsonl", Row)).Rows[0].Messages("conversations").Select(static message => (message.Role, message.Content!)));
    }

    [Fact]
    public void Examples_that_say_the_same_are_counted()
    {
        var data = TrainingDataset.FromRows([Row(("text", "a b")), Row(("text", "c")), Row(("text", "a b")), Row(("text", "a b"))]).Tokenize(Words("a b c </s>"));
        Assert.Equal(2, data.DuplicateCount);
        Assert.Contains("2 of 4 examples say the same as an earlier one", Assert.Single(data.Messages), StringComparison.Ordinal);
    }

    [Fact]
    public void What_says_nearly_the_same_is_not_on_both_sides_of_an_evaluation_split()
    {
        int[] groups = [.. Enumerable.Range(0, 30).Select(static row => row / 3)];
        var (training, evaluation) = TrainingPlan.Split(30, new TrainingOptions { EvaluationSplit = 0.3 }, groups);
        Assert.Equal((21, 9), (training.Length, evaluation.Length));
        Assert.Empty(training.Select(row => groups[row]).Intersect(evaluation.Select(row => groups[row])));
        Assert.Equal("EvaluationSplitTooLarge", Assert.Throws<PeftException>(() => TrainingPlan.Split(3, new TrainingOptions { EvaluationSplit = 0.3 }, [0, 0, 0])).ErrorId);

        var data = TrainingDataset.FromRows([Row(("prompt", "A b!"), ("completion", "c")), Row(("prompt", "c"), ("completion", "c")), Row(("prompt", "a B"), ("completion", "d"))]).Tokenize(Words("a b c d </s>"));
        Assert.Equal([0, 1, 0], data.Groups(CancellationToken.None)!);
    }

    [Theory]
    [InlineData(PackingStrategy.BestFit)]
    [InlineData(PackingStrategy.BestFitSplit)]
    [InlineData(PackingStrategy.Wrapped)]
    public void Packed_examples_of_a_training_keep_apart_and_only_BestFit_cuts(PackingStrategy packing)
    {
        var data = TrainingDataset.FromRows([Row(("text", "a b c d e a b")), Row(("text", "a")), Row(("text", "b c"))])
            .Tokenize(Words("a b c d e </s>"), TokenizationOptions.Of(new TrainingOptions { MaxLength = 4, Packing = packing }));
        using var batch = data.Collate([.. Enumerable.Range(0, data.Count)], CPU);
        var lengths = Assert.Single(batch.Packing!);
        Assert.Equal(lengths.SelectMany(static count => Enumerable.Range(0, count)).Select(static position => (long)position), batch.Positions!.data<long>().ToArray());
        Assert.Equal(packing == PackingStrategy.BestFit, data.Messages.Any(static message => message.Contains("are cut there", StringComparison.Ordinal)));
        Assert.Equal(packing == PackingStrategy.BestFit ? 4 : 8, data.Rows.Sum(static row => row.InputIds.Length) - 5);
        Assert.InRange(data.Fill, 0.5, 1);
    }

    [Theory]
    [InlineData("""{"packing":true}""", PackingStrategy.BestFit)]
    [InlineData("""{"packing":true,"packing_strategy":"wrapped"}""", PackingStrategy.Wrapped)]
    [InlineData("""{"packing_strategy":"bfd_split","packing":true}""", PackingStrategy.BestFitSplit)]
    [InlineData("""{"packing":false,"packing_strategy":"wrapped"}""", PackingStrategy.None)]
    public void Packing_is_written_and_read_as_TRL_has_it(string json, PackingStrategy packing)
    {
        var options = TrainingOptions.FromJson(json);
        Assert.Equal((packing, packing), (options.Packing, TrainingOptions.FromJson(options.ToJson()).Packing));
        Assert.Equal(packing, (new TrainingOptions { Packing = packing }).Packing);
        Assert.Equal("TrainingOptionInvalid", Assert.Throws<PeftException>(() => (options with { PackingName = "other" }).Validate()).ErrorId);
    }

    private static byte[] Compressed(string name, byte[] content)
    {
        using var packed = new MemoryStream();
        using (Stream stream = name.EndsWith(".gz", StringComparison.Ordinal) ? new GZipStream(packed, CompressionLevel.Fastest) : new CompressionStream(packed))
        {
            stream.Write(content);
        }

        return packed.ToArray();
    }

    private static IReadOnlyDictionary<string, object?> Row(params (string Name, object? Value)[] values) => values.ToDictionary(static value => value.Name, static value => value.Value);

    private Tokenizer Words(string words) => WordTokenizer.In(_folder, words);
}
