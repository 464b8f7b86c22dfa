using System.Globalization;
using System.Text;
using Peft.Adapters.Asking;
using Peft.Tests.Tensors;
using Peft.Tests.Tokenization;
using Peft.Tokenization;
using Peft.Training.Data;

namespace Peft.Tests.Training;

public sealed class TrainingDatasetTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    static TrainingDatasetTests() => Encoding.RegisterProvider(CodePagesEncodingProvider.Instance);

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("a.jsonl", "{\"prompt\":\"a b\",\"completion\":\"c\"}\n\n{\"prompt\":\"d\",\"completion\":\"e\"}\n", 1, 3)]
    [InlineData("a.json", "[\n{\"prompt\":\"a b\",\"completion\":\"c\"},\n{\"prompt\":\"d\",\n\"completion\":\"e\"}]", 2, 3)]
    [InlineData("a.json", "{\"version\":1,\"data\":[{\"prompt\":\"a b\",\"completion\":\"c\"},\n\n{\"prompt\":\"d\",\"completion\":\"e\"}]}", 1, 3)]
    [InlineData("a.csv", "prompt,completion\na b,c\nd,e\n", 2, 3)]
    [InlineData("a.csv", "prompt;completion\r\n\"a b\";c\r\n\"d\";\"e\"", 2, 3)]
    [InlineData("a.csv", "prompt|completion\na b|c\nd|e\n", 2, 3)]
    [InlineData("a.tsv", "prompt\tcompletion\na b\tc\nd\te\n", 2, 3)]
    public void TheSameRowsComeOutOfEveryFormat(string name, string content, int firstLine, int secondLine)
    {
        var data = TrainingDataset.FromFile(_folder.Write(name, content));
        Assert.Equal(RowKind.PromptCompletion, data.Columns.Kind);
        Assert.Equal([("a b", "c", firstLine), ("d", "e", secondLine)], data.Rows.Select(row => (row.Text("prompt"), row.Text("completion"), row.Line)));
    }

    [Fact]
    public void A_template_makes_the_prompt_of_whatever_columns_it_names()
    {
        var path = _folder.Write("a.csv", "country,city,answer\r\nTexas,\"x\r\ny\",Austin\r\n");
        var options = new DatasetOptions
        {
            Template = new PromptTemplate("{country}|{city}:"),
            Columns = new Dictionary<ColumnRole, string> { [ColumnRole.Completion] = "answer" },
        };
        var tokenizer = TestTokenizers.Bytes();
        var example = Assert.Single(TrainingDataset.FromFile(path, options).Tokenize(tokenizer).Examples);

        // A line break inside a value is one, however the file ends its lines.
        Assert.Equal("Texas|x\ny:Austin", tokenizer.Decode(example.InputIds));
        Assert.Equal("Austin", tokenizer.Decode([.. example.Labels.Where(static label => label != TrainingExample.Ignored)]));
        var error = Assert.Throws<PeftException>(() => TrainingDataset.FromFile(path, options with { Template = new PromptTemplate("{prompt}:") }));
        Assert.Equal("DatasetColumnMissing", error.ErrorId);
    }

    [Fact]
    public void ATextFileIsATextALine()
    {
        var data = TrainingDataset.FromFile(_folder.Write("a.txt", "one\n\ntwo\n"));
        Assert.Equal([("one", 1), ("two", 3)], data.Rows.Select(row => (row.Text("text"), row.Line)));
    }

    [Theory]
    [InlineData("utf-8", false, null)]
    [InlineData("utf-8", true, null)]
    [InlineData("utf-16", true, null)]
    [InlineData("utf-16BE", true, null)]
    [InlineData("utf-16", false, null)]
    [InlineData("utf-32", true, null)]
    [InlineData("shift_jis", false, null)]
    [InlineData("shift_jis", false, "shift_jis")]
    [InlineData("euc-jp", false, "euc-jp")]
    public void EncodingsAreFoundOrGiven(string encodingName, bool mark, string? given)
    {
        var encoding = Encoding.GetEncoding(encodingName);
        const string Content = "text,other\n\"日本の首都は\n東京です\",1\n表示ソ,2\n";
        byte[] bytes = [.. mark ? encoding.GetPreamble() : [], .. encoding.GetBytes(Content)];
        var data = TrainingDataset.FromFile(_folder.Write("a.csv", bytes), new DatasetOptions { Encoding = given });
        Assert.Equal([("日本の首都は\n東京です", 2), ("表示ソ", 4)], data.Rows.Select(row => (row.Text("text"), row.Line)));
        Assert.Equal(["text", "other"], data.ColumnNames);
    }

    [Fact]
    public void BytesThatAreNotTextAreAnError()
    {
        var path = _folder.Write("a.csv", [.. "text\n"u8, 0xFF, 0xFE, 0x81, 0x00]);
        Assert.Equal("DatasetEncodingUnknown", Assert.Throws<PeftException>(() => TrainingDataset.FromFile(path)).ErrorId);
        Assert.Equal("DatasetEncodingInvalid", Assert.Throws<PeftException>(() => TrainingDataset.FromFile(path, new DatasetOptions { Encoding = "utf-8" })).ErrorId);
        Assert.Equal("DatasetEncodingUnknown", Assert.Throws<PeftException>(() => TrainingDataset.FromFile(path, new DatasetOptions { Encoding = "no-such" })).ErrorId);
    }

    [Fact]
    public void AnotherEncodingThatHappensToBeValidShiftJisIsNotTakenForIt()
    {
        var path = _folder.Write("a.csv", [.. "text\nd"u8, 0xE9, .. "cor\n"u8]);
        Assert.Equal("DatasetEncodingUnknown", Error(() => TrainingDataset.FromFile(path)));
        Assert.Equal("décor", TrainingDataset.FromFile(path, new DatasetOptions { Encoding = "windows-1252" }).Rows[0].Text("text"));
    }

    [Fact]
    public void QuotesInsideAValueAreText()
    {
        var data = TrainingDataset.FromFile(_folder.Write("a.csv", "prompt,completion\na 12\" pipe,\"he said \"\"no\"\", twice\"\n"));
        Assert.Equal("a 12\" pipe", data.Rows[0].Text("prompt"));
        Assert.Equal("he said \"no\", twice", data.Rows[0].Text("completion"));
    }

    [Theory]
    [InlineData("a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\"}", "line 2", "completion")]
    [InlineData("a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\",\"completion\":null}", "line 2", "completion")]
    [InlineData("a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":{},\"completion\":\"b\"}", "line 2", "prompt")]
    [InlineData("a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\",", "line 2", "JSON")]
    [InlineData("a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n3", "line 2", "object")]
    [InlineData("a.json", "[{\"prompt\":\"a\",\"completion\":\"b\"},\n{\"prompt\":[],\"completion\":\"b\"}]", "line 2", "prompt")]
    [InlineData("a.json", "[{\"prompt\":\"a\",\"completion\":\"b\"},\n{\"prompt\"", "line 2", "JSON")]
    [InlineData("a.json", "3", "line 1", "array")]
    [InlineData("a.csv", "prompt,completion\na,b\nc\n", "line 3", "completion")]
    [InlineData("a.csv", "prompt,completion\na,b\n\"c,d\n", "line 3", "")]
    [InlineData("a.csv", "prompt,prompt\na,b\n", "line 1", "prompt")]
    [InlineData("a.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n{\"messages\":[{\"content\":\"x\"}]}", "line 2", "messages[0]")]
    [InlineData("a.jsonl", "{\"messages\":\"hello\"}", "line 1", "messages")]
    public void ABadRowSaysFileLineAndField(string name, string content, string line, string field)
    {
        var path = _folder.Write(name, content);
        var error = Assert.Throws<PeftException>(() => TrainingDataset.FromFile(path));
        Assert.Equal("DatasetRowInvalid", error.ErrorId);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
        Assert.Contains(line, error.Message, StringComparison.Ordinal);
        Assert.Contains(field, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void JsonNestedAMillionDeepIsAnError()
    {
        var deep = "{\"text\":" + new string('[', 1_000_000);
        Assert.Equal("DatasetRowInvalid", Assert.Throws<PeftException>(() => TrainingDataset.FromFile(_folder.Write("a.jsonl", deep))).ErrorId);
        Assert.Equal("DatasetRowInvalid", Assert.Throws<PeftException>(() => TrainingDataset.FromFile(_folder.Write("a.json", deep))).ErrorId);
    }

    [Theory]
    [InlineData("a.jsonl", "{\"text\":\"x\"}")]
    [InlineData("a.txt", "x")]
    [InlineData("a.csv", "text\nx")]
    public void ReadingStopsBetweenRows(string name, string content) =>
        Assert.Throws<OperationCanceledException>(() => TrainingDataset.FromFile(_folder.Write(name, content), cancellation: new CancellationToken(canceled: true)));

    [Fact]
    public void WhatIsNoDataSetIsNamed()
    {
        Assert.Equal("FileNotFound", Error(() => TrainingDataset.FromFile(_folder["absent.jsonl"])));
        Assert.Equal("DatasetFormatNotSupported", Error(() => TrainingDataset.FromFile(_folder.Write("a.arrow", "ARROW1"))));
        Assert.Equal("DatasetFileDamaged", Error(() => TrainingDataset.FromFile(_folder.Write("a.parquet", "PAR1"))));
        Assert.Equal("DatasetEmpty", Error(() => TrainingDataset.FromFile(_folder.Write("a.jsonl", "\n"))));
        Assert.Equal("DatasetEmpty", Error(() => TrainingDataset.FromFile(_folder.Write("a.csv", ""))));
        Assert.Equal("DatasetColumnsUnknown", Error(() => TrainingDataset.FromRows([Row(("question", "a"), ("answer", "b"))])));
        Assert.Equal("DatasetColumnMissing", Error(() => TrainingDataset.FromRows([Row(("question", "a"))], new DatasetOptions { Columns = new Dictionary<ColumnRole, string> { [ColumnRole.Prompt] = "ask" } })));
    }

    [Fact]
    public void ColumnsCanBeMapped()
    {
        var options = new DatasetOptions { Columns = new Dictionary<ColumnRole, string> { [ColumnRole.Prompt] = "question", [ColumnRole.Completion] = "answer" } };
        var data = TrainingDataset.FromRows([Row(("text", "t"), ("question", "a"), ("answer", 5L))], options);
        Assert.Equal(RowKind.PromptCompletion, data.Columns.Kind);
        Assert.Equal("5", data.Rows[0].Text(data.Columns[ColumnRole.Completion]!));
    }

    [Fact]
    public void NumbersAreReadAlikeInEveryCulture()
    {
        var before = CultureInfo.CurrentCulture;
        try
        {
            foreach (var culture in (string[])["tr-TR", "ja-JP", "de-DE"])
            {
                CultureInfo.CurrentCulture = CultureInfo.GetCultureInfo(culture);
                var data = TrainingDataset.FromFile(_folder.Write("a.jsonl", "{\"instruction\":1.5,\"input\":true,\"output\":-2}"));
                Assert.Equal(["1.5", "true", "-2"], ((string[])["instruction", "input", "output"]).Select(data.Rows[0].Text));
            }
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Fact]
    public void LossIsOnTheAnswerUnlessAskedOtherwise()
    {
        var tokenizer = Words("a b c d </s>");
        IReadOnlyDictionary<string, object?>[] rows = [Row(("prompt", "a b"), ("completion", " c d"))];
        var answer = TrainingDataset.FromRows(rows).Example(0, tokenizer);
        Assert.Equal([0, 1, 2, 3, 4], answer.InputIds);
        Assert.Equal([-100, -100, 2, 3, 4], answer.Labels);
        Assert.Equal([(false, 2), (true, 3)], answer.Segments(tokenizer).Select(segment => (segment.IsLearned, segment.TokenCount)));
        var all = TrainingDataset.FromRows(rows, new DatasetOptions { Loss = LossTokens.All }).Example(0, tokenizer);
        Assert.Equal(all.InputIds, all.Labels);
    }

    [Fact]
    public void InstructionsGoThroughATemplateThatIsSavedBesideTheAdapter()
    {
        PromptTemplate template = new("{{{instruction}}} {input} {mood}", "{prompt}");
        var data = TrainingDataset.FromRows(
            [Row(("instruction", "a"), ("input", "b"), ("mood", "c"), ("output", " d")), Row(("instruction", "a"), ("input", ""), ("mood", "c"), ("output", " d"))],
            new DatasetOptions { Template = template });
        var tokenizer = Words("{a} a b c d </s>");
        Assert.Equal([0, 2, 3, 4, 5], data.Example(0, tokenizer).InputIds);
        Assert.Equal([1, 4, 5], data.Example(1, tokenizer).InputIds);

        new PromptForm { Template = template }.Save(_folder.Path);
        Assert.Equal(template, PromptForm.Load(_folder.Path)!.Template);
        Assert.Null(PromptForm.Load(Path.GetTempPath()));
        Assert.Equal("### Instruction:\ndo\n\n### Response:\n", PromptTemplate.Instruction.Render(_ => "do", hasInput: false));
    }

    [Theory]
    [InlineData("{instruction")]
    [InlineData("a } b")]
    [InlineData("{}")]
    public void ATemplateWithALooseBraceIsAnError(string text) =>
        Assert.Equal("PromptTemplateInvalid", Error(() => new PromptTemplate(text).Render(_ => "x")));

    [Fact]
    public void NothingToLearnIsAnErrorAndPartlyNothingIsListed()
    {
        var tokenizer = Words("a b c d </s>");
        IReadOnlyDictionary<string, object?>[] rows = [Row(("prompt", "a b c"), ("completion", " d")), Row(("prompt", "a"), ("completion", " d"))];
        var some = TrainingDataset.FromRows(rows).Tokenize(tokenizer, new TokenizationOptions { MaxLength = 2 });
        Assert.Equal(1, some.Count);
        Assert.Equal(1, Assert.Single(some.Dropped).Row.Line);
        var error = Assert.Throws<PeftException>(() => TrainingDataset.FromRows(rows, new DatasetOptions { MaxLength = 1 }).Tokenize(tokenizer));
        Assert.Equal("DatasetAllMasked", error.ErrorId);
        Assert.Contains("1 tokens", error.RecommendedAction, StringComparison.Ordinal);
        Assert.Equal("DatasetAllMasked", Error(() => TrainingDataset.FromRows(rows[..1]).Tokenize(tokenizer, new TokenizationOptions { MaxLength = 2, Packing = PackingStrategy.BestFit })));
        Assert.Equal("PackingWithoutLength", Error(() => TrainingDataset.FromRows(rows).Tokenize(tokenizer, new TokenizationOptions { Packing = PackingStrategy.BestFit })));
    }

    [Fact]
    public void TheFingerprintKnowsRowsLossAndPacking()
    {
        var tokenizer = Words("a b c d </s>");
        IReadOnlyDictionary<string, object?>[] rows = [Row(("prompt", "a b"), ("completion", " c d"))];
        string[] prints =
        [
            TrainingDataset.FromRows(rows).Tokenize(tokenizer).Fingerprint,
            TrainingDataset.FromRows(rows, new DatasetOptions { Loss = LossTokens.All }).Tokenize(tokenizer).Fingerprint,
            TrainingDataset.FromRows(rows).Tokenize(tokenizer, new TokenizationOptions { MaxLength = 9, Packing = PackingStrategy.BestFit }).Fingerprint,
            TrainingDataset.FromRows([.. rows, .. rows]).Tokenize(tokenizer).Fingerprint,
        ];
        Assert.Equal(prints.Length, prints.Distinct().Count());
        Assert.Equal(prints[0], TrainingDataset.FromRows(rows).Tokenize(tokenizer).Fingerprint);
    }

    [Fact]
    public void PairsAreLearntFromWhereTheirAnswersPartAndAreCutAlike()
    {
        var tokenizer = Words("a b c d e </s>");
        IReadOnlyDictionary<string, object?>[] rows = [Row(("prompt", "a b"), ("chosen", " c d"), ("rejected", " e"), ("margin", "0.5"))];
        var pairs = new TokenizationOptions { Examples = ExampleKind.Pair };
        var example = TrainingDataset.FromRows(rows).Tokenize(tokenizer, pairs).Examples[0];
        Assert.Equal((3, 2, 0.5), (example.Labels.Count(label => label >= 0), example.Rejected!.Labels.Count(label => label >= 0), example.Margin));
        Assert.Equal(3, TrainingDataset.FromRows(rows).Tokenize(tokenizer, pairs with { MaxLength = 3 }).Examples[0].InputIds.Length);
        IReadOnlyDictionary<string, object?>[] whole = [Row(("chosen", "a b c d"), ("rejected", "a b e"))];
        var without = TrainingDataset.FromRows(whole).Tokenize(tokenizer, pairs).Examples[0];
        Assert.Equal(example.Labels, without.Labels);
        Assert.Null(without.Margin);
    }

    [Fact]
    public void RowsAreUnderstoodAsTheTrainingNeedsThem()
    {
        var tokenizer = Words("a b c d e </s>");
        var judged = TrainingDataset.FromRows([Row(("prompt", "a b"), ("completion", " c"), ("label", "1")), Row(("prompt", "a"), ("completion", " d"), ("label", false))]);
        Assert.Equal(RowKind.PromptCompletion, judged.Columns.Kind);
        Assert.Null(judged.Tokenize(tokenizer).Examples[0].IsDesirable);
        var data = judged.Tokenize(tokenizer, new TokenizationOptions { Examples = ExampleKind.Judged });
        Assert.Equal([true, false], data.Examples.Select(example => example.IsDesirable));
        var unfit = Assert.Throws<PeftException>(() => judged.Tokenize(tokenizer, new TokenizationOptions { Examples = ExampleKind.Pair }));
        Assert.Equal("DatasetKindUnfit", unfit.ErrorId);
        var spans = Assert.Throws<PeftException>(() => judged.Tokenize(tokenizer, new TokenizationOptions { Examples = ExampleKind.Span }));
        Assert.Equal("Give rows with question, context, answer; the model's head, and in training -Objective, say which rows are taken.", spans.RecommendedAction);
        var bad = TrainingDataset.FromRows([Row(("prompt", "a b"), ("completion", " c"), ("label", "perhaps"))]);
        var error = Assert.Throws<PeftException>(() => bad.Tokenize(tokenizer, new TokenizationOptions { Examples = ExampleKind.Judged }));
        Assert.Contains("label", error.Message, StringComparison.Ordinal);
    }

    private static IReadOnlyDictionary<string, object?> Row(params (string Name, object? Value)[] values) => values.ToDictionary(value => value.Name, value => value.Value);

    private static string Error(Func<object> action) => Assert.ThrowsAny<PeftException>(() => { action(); }).ErrorId;

    private Tokenizer Words(string words) => WordTokenizer.In(_folder, words);
}
