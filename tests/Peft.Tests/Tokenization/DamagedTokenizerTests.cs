using Peft.Tokenization;

namespace Peft.Tests.Tokenization;

public class DamagedTokenizerTests
{
    private const string WordLevel = """{"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}""";

    [Theory]
    [InlineData("""["","a"]""")]
    [InlineData("""["a",""]""")]
    [InlineData("""["",""]""")]
    [InlineData("""["a"]""")]
    [InlineData("""[null,"a"]""")]
    [InlineData("null")]
    public void AMergeHasTwoParts(string merge)
    {
        var error = Assert.Throws<PeftException>(() => TestTokenizers.FromText($$$"""{"model":{"type":"BPE","vocab":{"":0,"a":1},"merges":[{{{merge}}}]}}"""));
        Assert.Equal("TokenizerFileInvalid", error.ErrorId);
    }

    [Theory]
    [InlineData("1.5")]
    [InlineData("1e300")]
    [InlineData("99999999999999999999")]
    public void AnAddedTokenHasAWholeId(string id)
    {
        using var folder = new TemporaryFolder();
        folder.Write("tokenizer.json", WordLevel);
        folder.Write("added_tokens.json", $$"""{"<x>":{{id}}}""");
        Assert.Equal("TokenizerFileInvalid", Assert.Throws<PeftException>(() => Tokenizer.FromFolder(folder.Path)).ErrorId);
    }
}
