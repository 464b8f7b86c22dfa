using System.Diagnostics;
using Peft.Tokenization;

namespace Peft.Tests.Tokenization;

/// <summary>What a foreign tokenizer file may ask for: time by the length of the text, and memory by the same.</summary>
public class TokenizerBoundTests
{
    private const string Model = """{"type":"WordLevel","vocab":{"[UNK]":0,"a":1},"unk_token":"[UNK]"}""";

    [Fact]
    public void BlanksAroundAddedTokensThatStripAreLookedAtOnce()
    {
        var tokenizer = Read("""
            "added_tokens":[
              {"id":2,"content":"<m>","lstrip":true,"rstrip":true,"normalized":false},
              {"id":3,"content":" ","lstrip":true,"rstrip":true,"normalized":false},
              {"id":4,"content":"\n","lstrip":true,"single_word":true,"normalized":false}]
            """);
        var clock = Stopwatch.StartNew();
        var blanks = new string(' ', 1_000_000);

        Assert.Equal([2], tokenizer.EncodeIds("<m>" + blanks));
        Assert.Equal([3, 2], tokenizer.EncodeIds(blanks + "<m>"));
        tokenizer.EncodeIds(string.Concat(Enumerable.Repeat(" \n", 500_000)) + "<m>");
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(20), $"{clock.Elapsed}");
    }

    [Theory]
    [InlineData("""{"type":"Replace","pattern":{"String":"a"},"content":"aa"}""")]
    [InlineData("""{"type":"Replace","pattern":{"Regex":"a"},"content":"aa"}""")]
    [InlineData("""{"type":"Replace","pattern":{"Regex":""},"content":"aa"}""")]
    public void NormalizersThatDoubleHaveABound(string step)
    {
        var tokenizer = Read($$"""
            "normalizer":{"type":"Sequence","normalizers":[{{string.Join(',', Enumerable.Repeat(step, 40))}}]}
            """);
        Assert.Equal("TokenizerTextTooLong", Assert.Throws<PeftException>(() => tokenizer.EncodeIds("a")).ErrorId);
    }

    [Fact]
    public void OneNormalizerThatMakesTooMuchHasABound()
    {
        var tokenizer = Read($$"""
            "normalizer":{"type":"Replace","pattern":{"String":"a"},"content":"{{new string('b', 1_000_000)}}"}
            """);
        Assert.Equal("TokenizerTextTooLong", Assert.Throws<PeftException>(() => tokenizer.EncodeIds(new string('a', 1_000_000))).ErrorId);
    }

    [Theory]
    [InlineData("""{"type":"Replace","pattern":{"String":"a"},"content":"aa"}""")]
    [InlineData("""{"type":"BPEDecoder","suffix":""}""")]
    public void DecodersThatDoubleHaveABound(string step)
    {
        var tokenizer = Read($$"""
            "decoder":{"type":"Sequence","decoders":[{{string.Join(',', Enumerable.Repeat(step, 40))}}]}
            """);
        Assert.Equal("TokenizerTextTooLong", Assert.Throws<PeftException>(() => tokenizer.Decode([1, 1])).ErrorId);
    }

    [Fact]
    public void APostProcessorRepeatsATextAFewTimesAtMost()
    {
        var parts = string.Join(',', Enumerable.Repeat("""{"Sequence":{"id":"A","type_id":0}}""", 100_000));
        var template = """ "post_processor":{"type":"TemplateProcessing","single":[""" + parts + """],"pair":[],"special_tokens":{}}""";
        var error = Assert.Throws<PeftException>(() => Read(template));
        Assert.Equal("TokenizerFileInvalid", error.ErrorId);
    }

    private static Tokenizer Read(string part) => TestTokenizers.FromText($$$"""{"model":{{{Model}}},{{{part}}}}""");
}
