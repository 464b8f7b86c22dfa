using FsCheck.Xunit;
using Peft.Tests.Golden;
using Peft.Tokenization;

namespace Peft.Tests.Tokenization;

public class TokenizerTests
{
    private static readonly Tokenizer s_bytes = TestTokenizers.Bytes();

    [Property(MaxTest = 500)]
    public bool AByteLevelTokenizerRoundTripsAnyText(string? text)
    {
        var clean = new string([.. (text ?? "").EnumerateRunes().SelectMany(rune => rune.ToString())]);
        return s_bytes.Decode(s_bytes.EncodeIds(clean), skipSpecialTokens: false) == clean;
    }

    [Property(MaxTest = 300)]
    public bool StreamingGivesWhatDecodingAtOnceGives(string? text)
    {
        var ids = s_bytes.EncodeIds(text ?? "");
        var decoder = s_bytes.CreateDecoder();
        var streamed = string.Concat(ids.Select(decoder.Append)) + decoder.Flush();
        return streamed == s_bytes.Decode(ids);
    }

    [Fact]
    public void StreamingGivesOutNoBrokenCharacter()
    {
        var decoder = s_bytes.CreateDecoder();

        var steps = s_bytes.EncodeIds("a👍🏽b").Select(decoder.Append).ToList();

        Assert.DoesNotContain(steps, step => step.Contains('\uFFFD', StringComparison.Ordinal));
        Assert.Equal("a👍🏽b", string.Concat(steps) + decoder.Flush());
    }

    [Fact]
    public void OffsetsPointIntoTheText()
    {
        const string Text = "Hello world, 👍🏽 naïve";

        var encoding = s_bytes.Encode(Text);

        Assert.Equal("Hell", Text[encoding.Offsets[0].Start..encoding.Offsets[0].End]);
        Assert.Equal(" wor", Text[encoding.Offsets[2].Start..encoding.Offsets[2].End]);
        Assert.All(encoding.Offsets, offset => Assert.True(offset.Start < offset.End && offset.End <= Text.Length));
    }

    [Theory]
    [InlineData("a")]
    [InlineData("👍")]
    [InlineData(" ")]
    [InlineData("ab")]
    [InlineData("\n")]
    public void AMegabyteOfOneThingTakesNoQuadraticTime(string part)
    {
        var text = string.Concat(Enumerable.Repeat(part, 1_000_000 / part.Length));
        var clock = System.Diagnostics.Stopwatch.StartNew();

        Assert.Equal(text, s_bytes.Decode(s_bytes.EncodeIds(text)));

        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(60), $"took {clock.Elapsed}");
    }

    [Fact]
    public void EveryGoldenTokenizerTakesAnyText()
    {
        var random = new Random(3);
        string[] parts = ["a", "Z", " ", "\n", "▁", "\uD83D", "\uDC4D", "👍🏽", "<s>", "[MASK]", "é", "\u0301", "中", "ﬁ", "\0", "\uFFFF", "١", "<0x41>", "##", "'s", "\u200B"];
        foreach (var path in GoldenCases.Enumerate("tokenizers").Where(path => File.Exists(Path.Combine(GoldenCases.PathOf("tokenizers", path), "tokenizer.json"))))
        {
            var tokenizer = Tokenizer.FromFolder(GoldenCases.PathOf("tokenizers", path));
            for (var i = 0; i < 20; i++)
            {
                var text = string.Concat(Enumerable.Range(0, random.Next(40)).Select(_ => parts[random.Next(parts.Length)]));
                var encoding = tokenizer.Encode(text);
                Assert.All(encoding.Offsets, offset => Assert.InRange(offset.End, offset.Start, text.Length));
                tokenizer.Decode(encoding.Ids);
            }
        }
    }

    [Fact]
    public void ABrokenFileIsAnErrorOfOurOwn()
    {
        var random = new Random(5);
        var good = TestTokenizers.BytesJson().ToJsonString();
        for (var i = 0; i < 300; i++)
        {
            var bytes = System.Text.Encoding.UTF8.GetBytes(good);
            switch (i % 3)
            {
                case 0:
                    bytes = bytes[..random.Next(bytes.Length)];
                    break;
                case 1:
                    bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
                    break;
                default:
                    var start = random.Next(bytes.Length - 20);
                    bytes = [.. bytes[..start], .. bytes[(start + random.Next(1, 20))..]];
                    break;
            }

            try
            {
                TestTokenizers.FromBytes(bytes, ".json").EncodeIds("Hello world");
            }
            catch (PeftException)
            {
            }
        }
    }

    [Theory]
    [InlineData("""{}""", "TokenizerFileInvalid")]
    [InlineData("""[1]""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":["ab"]}}""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":200000000},"merges":[]}}""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"\ud800":1},"merges":[]}}""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":7}}""", "TokenizerFileInvalid")]
    [InlineData("""{"model":{"type":"Nonsense","vocab":{}}}""", "TokenizerComponentNotSupported")]
    [InlineData("""{"pre_tokenizer":{"type":"Nonsense"},"model":{"type":"WordLevel","vocab":{}}}""", "TokenizerComponentNotSupported")]
    [InlineData("""{"normalizer":{"type":"Precompiled","precompiled_charsmap":"!"},"model":{"type":"WordLevel","vocab":{}}}""", "TokenizerFileInvalid")]
    [InlineData("""{"normalizer":{"type":"Precompiled","precompiled_charsmap":"/////w=="},"model":{"type":"WordLevel","vocab":{}}}""", "TokenizerFileInvalid")]
    public void MissingPartsAreNamed(string json, string errorId)
    {
        var error = Assert.ThrowsAny<PeftException>(() => TestTokenizers.FromText(json));

        Assert.Equal(errorId, error.ErrorId);
        Assert.DoesNotContain("Exception", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void JsonNestedAMillionDeepIsAnError() =>
        Assert.Equal("TokenizerFileInvalid", Assert.Throws<PeftException>(() => TestTokenizers.FromText(new string('[', 1_000_000))).ErrorId);

    [Fact]
    public void ACutOffSentencePieceModelIsAnError()
    {
        byte[][] models = [[], [0x0A, 0x7F, 1], [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], [0x0A, 0x02, 0x0A, 0x00]];

        Assert.All(models, bytes => Assert.Equal("TokenizerFileInvalid", Assert.Throws<PeftException>(() => TestTokenizers.FromBytes(bytes, ".model")).ErrorId));
    }

    [Fact]
    public void ATextThatNeedsAMissingUnknownTokenIsAnError()
    {
        var tokenizer = TestTokenizers.FromText("""{"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"[UNK]"}}""");

        Assert.Equal("TokenizerUnknownTokenMissing", Assert.Throws<PeftException>(() => tokenizer.Encode("b")).ErrorId);
    }

    [Fact]
    public void SavingWritesTheFilesAsTheyWere()
    {
        var root = Directory.CreateTempSubdirectory("peft-tokenizer-").FullName;
        try
        {
            var (from, to) = (Path.Combine(root, "from"), Path.Combine(root, "to"));
            Directory.CreateDirectory(from);
            File.WriteAllText(Path.Combine(from, "tokenizer.json"), TestTokenizers.BytesJson().ToJsonString());
            File.WriteAllText(Path.Combine(from, "tokenizer_config.json"), """{ "eos_token": "<|end|>" }""");
            File.WriteAllText(Path.Combine(from, "chat_template.jinja"), "{{ messages[0].content }}");

            Tokenizer.FromFolder(from).Save(to);

            Assert.Equal(Directory.GetFiles(from).Select(File.ReadAllText).Order(StringComparer.Ordinal), Directory.GetFiles(to).Select(File.ReadAllText).Order(StringComparer.Ordinal));
            Assert.Equal("<|end|>", Tokenizer.FromFolder(to).EosToken);
        }
        finally
        {
            Directory.Delete(root, recursive: true);
        }
    }

    [Fact]
    public void DropoutLeavesMergesOut()
    {
        var json = TestTokenizers.BytesJson();
        json["model"]!["dropout"] = 1.0;

        Assert.Equal(5, TestTokenizers.FromJson(json).EncodeIds("Hello").Length);
        Assert.Equal(2, s_bytes.EncodeIds("Hello").Length);
    }

    [Fact]
    public void SpecialTokensOfStrangersCanBePlainText()
    {
        Assert.Single(s_bytes.EncodeIds("<|end|>"));
        Assert.Equal(7, s_bytes.EncodeIds("<|end|>", plainSpecialTokens: true).Length);
    }

    [Fact]
    public void TextsOfABatchArePaddedToTheLongest()
    {
        var tokenizer = s_bytes.With(null, new Padding { Id = 7, MultipleOf = 4, Direction = PaddingDirection.Left });

        var batch = tokenizer.EncodeBatch(["Hello", "Hello world", ""]);
        var pairs = tokenizer.EncodeBatch([("Hello", " world"), ("Hello", "")]);

        Assert.All(batch.Concat(pairs), encoding => Assert.Equal(8, encoding.Ids.Length));
        Assert.Equal([7, 7, 7, 7, 7, 7, .. s_bytes.EncodeIds("Hello")], batch[0].Ids);
        Assert.Equal([0, 0, 0, 0, 0, 0, 1, 1], batch[0].AttentionMask);
        Assert.Equal(batch[1].Ids, pairs[0].Ids);
    }
}
