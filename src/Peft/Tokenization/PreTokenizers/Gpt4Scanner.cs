using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>
/// The splitting pattern of cl100k_base, Llama 3 and Qwen by hand; they differ in how many digits stay together:
/// <c>(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+</c>.
/// </summary>
internal sealed class Gpt4Scanner : Matcher
{
    private const string Before = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";
    private const string After = @"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>The pattern with up to three digits together (cl100k_base, Llama 3).</summary>
    public const string ThreeDigits = Before + @"\p{N}{1,3}" + After;

    /// <summary>The pattern with single digits (Qwen).</summary>
    public const string SingleDigits = Before + @"\p{N}" + After;

    private readonly int _digits;

    private Gpt4Scanner(int digits) => _digits = digits;

    /// <summary>A scanner for one of the two patterns, or null.</summary>
    public static Gpt4Scanner? For(string pattern) => pattern switch
    {
        ThreeDigits => new Gpt4Scanner(3),
        SingleDigits => new Gpt4Scanner(1),
        _ => null,
    };

    /// <inheritdoc/>
    public override bool Next(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end)
    {
        start = state.Position;
        if (start >= text.Length)
        {
            end = start;
            return false;
        }

        end = End(text, start);
        state.Position = end;
        return true;
    }

    private int End(ReadOnlySpan<char> text, int start)
    {
        if (text[start] == '\'' && Contraction(text, start) is > 0 and var contraction)
        {
            return start + contraction;
        }

        var kind = Gpt2Scanner.KindAt(text, start, out var length);
        var next = start + length;
        switch (kind)
        {
            case CharacterClass.Letter:
                return Gpt2Scanner.RunEnd(text, next, CharacterClass.Letter);
            case CharacterClass.Number:
                for (var digits = 1; digits < _digits && next < text.Length && Gpt2Scanner.KindAt(text, next, out length) == CharacterClass.Number; digits++)
                {
                    next += length;
                }

                return next;
            case CharacterClass.Break:
                return SpaceEnd(text, start);
        }

        // Anything else takes a word along that follows it.
        var following = next < text.Length ? Gpt2Scanner.KindAt(text, next, out length) : CharacterClass.Break;
        if (following == CharacterClass.Letter)
        {
            return Gpt2Scanner.RunEnd(text, next + length, CharacterClass.Letter);
        }

        if (kind == CharacterClass.Other)
        {
            return Breaks(text, Gpt2Scanner.RunEnd(text, next, CharacterClass.Other));
        }

        return text[start] == ' ' && following == CharacterClass.Other
            ? Breaks(text, Gpt2Scanner.RunEnd(text, next + length, CharacterClass.Other))
            : SpaceEnd(text, start);
    }

    private static int Breaks(ReadOnlySpan<char> text, int at)
    {
        while (at < text.Length && text[at] is '\r' or '\n')
        {
            at++;
        }

        return at;
    }

    /// <summary>Where <c>\s*[\r\n]+|\s+(?!\S)|\s+</c> ends: after the last line break of the run, else before its last blank.</summary>
    private static int SpaceEnd(ReadOnlySpan<char> text, int start)
    {
        var end = start;
        var lastBreak = -1;
        for (; end < text.Length && char.IsWhiteSpace(text[end]); end++)
        {
            lastBreak = text[end] is '\r' or '\n' ? end : lastBreak;
        }

        if (lastBreak >= 0)
        {
            return lastBreak + 1;
        }

        return end < text.Length && end - start > 1 ? end - 1 : end;
    }

    /// <summary>The length of <c>'s</c> and its like, in any case (a long s counts), or 0.</summary>
    private static int Contraction(ReadOnlySpan<char> text, int at)
    {
        if (at + 1 >= text.Length)
        {
            return 0;
        }

        var next = text[at + 1];
        if (next is 's' or 'S' or '\u017F' or 't' or 'T' or 'm' or 'M' or 'd' or 'D')
        {
            return 2;
        }

        if (at + 2 >= text.Length)
        {
            return 0;
        }

        return ((char)(next | 0x20), (char)(text[at + 2] | 0x20)) is ('r', 'e') or ('v', 'e') or ('l', 'l') && next < 0x80 && text[at + 2] < 0x80 ? 3 : 0;
    }
}
