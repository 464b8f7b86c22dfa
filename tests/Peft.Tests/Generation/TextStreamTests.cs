using Peft.Generation;
using Peft.Tests.Golden;
using Peft.Tokenization;

namespace Peft.Tests.Generation;

/// <summary>What a stream of tokens shows while it grows.</summary>
public sealed class TextStreamTests
{
    private static readonly Tokenizer s_tokenizer = Tokenizer.FromFolder(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama"));

    [Fact]
    public void A_stop_string_is_cut_off_and_never_shown()
    {
        var stream = new TextStream(s_tokenizer, new GenerationOptions { StopStrings = ["\n\n"] });
        var shown = Feed(stream, "One line.\n\nAnother");
        Assert.True(stream.IsStopped);
        Assert.Equal("One line.", stream.Text);
        Assert.Equal("One line.", shown);
    }

    [Fact]
    public void What_may_be_the_beginning_of_a_stop_string_is_held_back_and_given_at_the_end()
    {
        var stream = new TextStream(s_tokenizer, new GenerationOptions { StopStrings = ["\n\nQuestion"] });
        var shown = Feed(stream, "One\n\nQuest");
        Assert.DoesNotContain("Quest", shown, StringComparison.Ordinal);
        Assert.Equal("One\n\nQuest", shown + stream.Finish());
    }

    [Fact]
    public void Characters_of_several_tokens_are_shown_whole()
    {
        const string Text = "naïve 😀 日本";
        var stream = new TextStream(s_tokenizer, new GenerationOptions());
        var pieces = s_tokenizer.EncodeIds(Text, addSpecialTokens: false).Select(stream.Append).Append(stream.Finish()).ToArray();
        Assert.Equal(Text, string.Concat(pieces));
        Assert.All(pieces, piece => Assert.DoesNotContain('\uFFFD', piece));
    }

    private static string Feed(TextStream stream, string text) =>
        string.Concat(s_tokenizer.EncodeIds(text, addSpecialTokens: false).TakeWhile(_ => !stream.IsStopped).Select(stream.Append));
}
