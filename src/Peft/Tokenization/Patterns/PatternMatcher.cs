using Peft.Tokenization.PreTokenizers;

namespace Peft.Tokenization.Patterns;

/// <summary>Matches a pattern in Oniguruma's syntax.</summary>
internal static class PatternMatcher
{
    /// <summary>A matcher for a pattern; a hand-written one where there is one.</summary>
    public static Matcher Make(string pattern, string path) => pattern == Gpt2Scanner.Pattern
        ? Gpt2Scanner.Instance
        : throw new NotSupportedByPeftException("TokenizerPatternNotSupported", $"{path} has the pattern {pattern}, which can't be read.");
}
