namespace Peft.Tests;

public class VisibleTextTests
{
    [Theory]
    [InlineData("plain, añ 👍\n\tnext", "plain, añ 👍\n\tnext")]
    [InlineData("a\u001b[2Jb", "a\u241b[2Jb")]
    [InlineData("a\rb\r\nc", "a\u240db\r\nc")]
    [InlineData("\0\u0007\u007f", "\u2400\u2407\u2421")]
    [InlineData("\u009b2J \u202egnp.exe", "\\u009b2J \\u202egnp.exe")]
    public void ControlCharactersAreShownAndNotSent(string text, string expected) => Assert.Equal(expected, VisibleText.Of(text));

    [Fact]
    public void NoErrorOfOursCarriesAnEscapeCode()
    {
        var error = new PeftException("Id", "tensor '\u001b]0;title\u0007' is wrong") { RecommendedAction = "see \u001b[1m" };
        Assert.DoesNotContain('\u001b', error.Message);
        Assert.DoesNotContain('\u0007', error.Message);
        Assert.DoesNotContain('\u001b', error.RecommendedAction);
    }
}
