#if MICROSOFT_ML_TOKENIZERS
using Peft.Tokenization.Interop;

namespace Peft.Tests.Tokenization;

public class MicrosoftTokenizerTests
{
    private const string Text = "Hello, wörld! 👍🏽 don't";

    [Fact]
    public void OursAnswersAsTheirs()
    {
        var ours = TestTokenizers.Bytes();
        var theirs = ours.ToMicrosoftTokenizer();

        Assert.Equal(ours.EncodeIds(Text), theirs.EncodeToIds(Text));
        Assert.Equal(ours.EncodeIds(Text).Length, theirs.CountTokens(Text));
        Assert.Equal(Text, theirs.Decode(theirs.EncodeToIds(Text)));
        var tokens = theirs.EncodeToTokens(Text, out var normalized);
        Assert.Null(normalized);
        Assert.Equal(ours.Encode(Text).Offsets, tokens.Select(token => (token.Offset.Start.Value, token.Offset.End.Value)));
        Assert.Equal(3, theirs.EncodeToIds(Text, 3, out _, out var consumed).Count);
        Assert.Equal(consumed, theirs.GetIndexByTokenCount(Text, 3, out _, out var count));
        Assert.Equal(3, count);
        var last = theirs.GetIndexByTokenCountFromEnd(Text, 2, out _, out _);
        Assert.Equal(2, ours.EncodeIds(Text[last..]).Length);
    }

    [Fact]
    public void TheirsAnswersAsOurs()
    {
        var vocabulary = new MemoryStream(System.Text.Encoding.UTF8.GetBytes("[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nworld\n##s\n,\n"));
        var theirs = Microsoft.ML.Tokenizers.WordPieceTokenizer.Create(vocabulary);

        var ours = theirs.ToPeftTokenizer(new Dictionary<string, (string, int)> { ["pad_token"] = ("[PAD]", 0) });

        Assert.Equal(theirs.EncodeToIds("hello worlds"), ours.EncodeIds("hello worlds"));
        Assert.Equal([0, 4], ours.EncodeIds("[PAD]hello"));
        Assert.Equal(0, ours.PadTokenId);
        Assert.Equal((5, 5), (ours.Encode("hello").Offsets[0].End, "hello".Length));
        Assert.Contains("hello", ours.Decode(ours.EncodeIds("hello worlds")), StringComparison.Ordinal);
    }

    [Fact]
    public void AWrappedTokenizerComesBackItself()
    {
        var ours = TestTokenizers.Bytes();

        Assert.Same(ours, ours.ToMicrosoftTokenizer().ToPeftTokenizer());
    }
}
#endif
