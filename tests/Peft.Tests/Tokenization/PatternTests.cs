using Peft.Tokenization.Patterns;
using Peft.Tokenization.PreTokenizers;

namespace Peft.Tests.Tokenization;

public class PatternTests
{
    [Theory]
    [InlineData(@"a++b", "aab aa", "aab")]
    [InlineData(@"[^\s]++\s", "ab cd", "ab ")]
    [InlineData(@"a*+a", "aaa", "")]
    [InlineData(@"(?>a|ab)c", "abc ac", "ac")]
    [InlineData(@"(?i:straße)", "STRASSE strasse straSSe", "STRASSE|strasse|straSSe")]
    [InlineData(@"(?i:'s)", "'S 'ſ 's", "'S|'ſ|'s")]
    [InlineData(@"(?i:[k])", "k K \u212A", "k|K|\u212A")]
    [InlineData(@"\p{L}+", "𝒜𝓁 a1b", "𝒜𝓁|a|b")]
    [InlineData(@"[^\p{L}]", "𝒜!", "!")]
    [InlineData(@".", "👍\n.", "👍|.")]
    [InlineData(@"\h+", "0xFFg", "0|FF")]
    [InlineData(@"\R", "a\r\nb\nc", "\r\n|\n")]
    [InlineData(@"\X", "e\u0301👨‍👩‍👧", "e\u0301|👨‍👩‍👧")]
    [InlineData(@"(?<=\p{Ll})\p{Lu}", "aB AB", "B")]
    [InlineData(@"(?<!a)b", "ab bb", "b|b")]
    [InlineData(@"[\p{Han}&&[^好]]+", "你好世界", "你|世界")]
    [InlineData(@"[[:punct:]]+", "a!$b", "!$")]
    [InlineData(@"[a-c[x-z]]+", "abxyq", "abxy")]
    [InlineData(@"^.", "ab\ncd", "a|c")]
    [InlineData(@"x{2,3}", "xxxxx", "xxx|xx")]
    [InlineData(@"x{,2}y", "xxxy", "xxy")]
    [InlineData(@"a{b", "a{b", "a{b")]
    [InlineData(@"(a|b)*?c", "abac", "abac")]
    [InlineData(@"(?:a?)*b", "aab", "aab")]
    [InlineData(@"(?m:.)+", "a\nb", "a\nb")]
    [InlineData(@"(?x: a b # c
        c)", "abc", "abc")]
    [InlineData(@"\x{1F44D}|\u0041", "A👍", "A|👍")]
    [InlineData(@"[^(\s|[.,])]+", "a(b|c.d e", "a|b|c|d|e")]
    public void FindsWhatOnigurumaFinds(string pattern, string text, string expected) => Assert.Equal(expected, string.Join('|', All(PatternMatcher.Compile(pattern), text)));

    [Theory]
    [InlineData("(")]
    [InlineData("a)")]
    [InlineData("[a")]
    [InlineData("*a")]
    [InlineData(@"\")]
    [InlineData("[b-a]")]
    [InlineData("x{2000}")]
    public void ABrokenPatternIsANamedError(string pattern) =>
        Assert.Equal("TokenizerPatternInvalid", Assert.Throws<PeftException>(() => PatternMatcher.Compile(pattern)).ErrorId);

    [Theory]
    [InlineData(@"(a)\1")]
    [InlineData(@"\p{Nonsense}")]
    [InlineData(@"(?<=a+)b")]
    public void WhatIsMissingSaysSo(string pattern) => Assert.Throws<NotSupportedByPeftException>(() => PatternMatcher.Compile(pattern));

    [Fact]
    public void ACatastrophicPatternEndsInAnError()
    {
        var matcher = PatternMatcher.Compile("(?:a|a)*b");

        var error = Assert.Throws<PeftException>(() => All(matcher, new string('a', 60)).Count());

        Assert.Equal("TokenizerPatternTooSlow", error.ErrorId);
    }

    [Fact]
    public void ALongRunTakesLinearTime()
    {
        var matcher = PatternMatcher.Compile(@"\s+$");

        Assert.Empty(All(matcher, new string(' ', 1_000_000) + "x"));
    }

    [Theory]
    [InlineData(Gpt2Scanner.Pattern)]
    [InlineData(Gpt4Scanner.ThreeDigits)]
    [InlineData(Gpt4Scanner.SingleDigits)]
    public void AHandWrittenScannerCutsLikeItsPattern(string pattern)
    {
        var scanner = PatternMatcher.Make(pattern, "test");
        Assert.IsNotType<PatternMatcher>(scanner);
        var matcher = PatternMatcher.Compile(pattern);
        string[] parts = ["'", "s", "S", "ſ", "re", "LL", "l", "ve", "d", " ", "  ", "\n", "\r\n", "\t", "\u00A0", "\u3000", "a", "É", "ß", "1", "22", "½", "٣", "𝒜", "𝟙",
            "👍🏽", "\u0301", "!", "?!", "_", "中文", "\uD800", "\uDC00", "\u2028", "\u0085", "ⅷ", "\u200D"];
        var random = new Random(7);
        for (var i = 0; i < 4000; i++)
        {
            var text = string.Concat(Enumerable.Range(0, random.Next(1, 14)).Select(_ => parts[random.Next(parts.Length)]));
            Assert.Equal(All(matcher, text), All(scanner, text));
        }
    }

    private static IEnumerable<string> All(Matcher matcher, string text)
    {
        var state = MatchState.Start;
        while (matcher.Next(text, ref state, out var start, out var end))
        {
            yield return text[start..end];
        }
    }
}
