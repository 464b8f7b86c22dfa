using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>
/// GPT-2's splitting pattern by hand, since it cuts most of the world's text:
/// <c>'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+</c>.
/// </summary>
internal sealed class Gpt2Scanner : Matcher
{
    /// <summary>The pattern that this scanner stands for.</summary>
    public const string Pattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// <summary>The only instance.</summary>
    public static readonly Gpt2Scanner Instance = new();

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

    private static int End(ReadOnlySpan<char> text, int start)
    {
        var first = text[start];
        if (first == '\'')
        {
            var contraction = Contraction(text, start);
            if (contraction > 0)
            {
                return start + contraction;
            }
        }

        var at = start;
        if (first == ' ' && start + 1 < text.Length)
        {
            at++;
        }

        var kind = KindAt(text, at, out var length);
        if (kind < CharacterClass.Space)
        {
            return RunEnd(text, at + length, kind);
        }

        return SpaceEnd(text, start);
    }

    /// <summary>The length of <c>'s</c> and its like at a position, or 0.</summary>
    private static int Contraction(ReadOnlySpan<char> text, int at)
    {
        if (at + 1 >= text.Length)
        {
            return 0;
        }

        var next = text[at + 1];
        if (next is 's' or 't' or 'm' or 'd')
        {
            return 2;
        }

        if (at + 2 >= text.Length)
        {
            return 0;
        }

        return (next, text[at + 2]) is ('r', 'e') or ('v', 'e') or ('l', 'l') ? 3 : 0;
    }

    /// <summary>Where a run of one kind ends.</summary>
    public static int RunEnd(ReadOnlySpan<char> text, int at, byte kind)
    {
        var kinds = CharacterClass.Kinds;
        while (at < text.Length)
        {
            var unit = text[at];
            if (!char.IsSurrogate(unit))
            {
                if (kinds[unit] != kind)
                {
                    break;
                }

                at++;
            }
            else
            {
                if (KindAt(text, at, out var length) != kind)
                {
                    break;
                }

                at += length;
            }
        }

        return at;
    }

    /// <summary>Where <c>\s+(?!\S)|\s+</c> ends.</summary>
    public static int SpaceEnd(ReadOnlySpan<char> text, int start)
    {
        var end = start + 1;
        while (end < text.Length && char.IsWhiteSpace(text[end]))
        {
            end++;
        }

        return end < text.Length && end - start > 1 ? end - 1 : end;
    }

    /// <summary>The kind of the code point at a position.</summary>
    public static byte KindAt(ReadOnlySpan<char> text, int at, out int length)
    {
        var unit = text[at];
        if (!char.IsSurrogate(unit))
        {
            length = 1;
            return CharacterClass.Kinds[unit];
        }

        return CharacterClass.Kind(CodePoints.At(text, at, out length));
    }
}
