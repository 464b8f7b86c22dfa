using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>Where Metaspace puts its mark in front.</summary>
internal enum PrependScheme
{
    /// <summary>Before every piece.</summary>
    Always,

    /// <summary>Nowhere.</summary>
    Never,

    /// <summary>Before the piece that starts the text.</summary>
    First,
}

/// <summary>SentencePiece's treatment of spaces: a mark for each, one in front, and a cut before each mark.</summary>
internal sealed class MetaspacePreTokenizer(char replacement, PrependScheme scheme, bool split) : PreTokenizer
{
    /// <inheritdoc/>
    public override void Split(in TextSpan given, ITextSpanSink next)
    {
        var piece = Replaced(given.Spelled());
        var prepend = scheme == PrependScheme.Always || (scheme == PrependScheme.First && piece.OriginalStart == 0);
        if (prepend && piece.Span[0] != replacement)
        {
            piece = Prefixed.With(piece, replacement.ToString());
        }

        if (!split)
        {
            next.Add(piece);
            return;
        }

        // A mark joins what follows it; of several in a row each is its own piece but for the last.
        var span = piece.Span;
        var start = 0;
        for (var i = 1; i < span.Length; i++)
        {
            if (span[i] == replacement)
            {
                next.Add(piece.Slice(start, i));
                start = i;
            }
        }

        next.Add(piece.Slice(start, span.Length));
    }

    private TextSpan Replaced(in TextSpan piece)
    {
        if (piece.Span.IndexOf(' ') < 0)
        {
            return piece;
        }

        if (piece.Map.IsShift)
        {
            return new TextSpan(piece.Span.ToString().Replace(' ', replacement), 0, piece.Length,
                new Alignment(piece.Map.Shift + piece.Start), piece.OriginalStart);
        }

        var builder = new TextBuilder(piece.Length);
        Prefixed.Copy(piece, builder, 0, piece.Length, unit => unit == ' ' ? replacement : unit);
        return new TextSpan(builder.Text(), 0, builder.Count, builder.Alignment(), piece.OriginalStart);
    }
}

/// <summary>Runs of word characters, and runs of anything else that isn't white space (<c>\w+|[^\w\s]+</c>).</summary>
internal sealed class WordMatcher : Matcher
{
    /// <summary>The only instance.</summary>
    public static readonly WordMatcher Instance = new();

    /// <inheritdoc/>
    public override bool Next(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end)
    {
        start = state.Position;
        while (start < text.Length && char.IsWhiteSpace(text[start]))
        {
            start++;
        }

        end = start;
        if (start == text.Length)
        {
            state.Position = end;
            return false;
        }

        var word = WordCharacter.Is(CodePoints.At(text, start, out var length));
        end += length;
        while (end < text.Length && !char.IsWhiteSpace(text[end]) && WordCharacter.Is(CodePoints.At(text, end, out length)) == word)
        {
            end += length;
        }

        state.Position = end;
        return true;
    }
}

/// <summary>Pieces of a fixed number of code points.</summary>
internal sealed class FixedLengthSplitter : PreTokenizer
{
    private readonly int _length;

    /// <summary>A splitter; <paramref name="length"/> counts code points.</summary>
    public FixedLengthSplitter(int length) => _length = length > 0
        ? length
        : throw new PeftException("TokenizerFileInvalid", $"The tokenizer's FixedLength pre-tokenizer has the length {length}.");

    /// <inheritdoc/>
    public override void Split(in TextSpan given, ITextSpanSink next)
    {
        var piece = given.Spelled();
        var span = piece.Span;
        var (start, count) = (0, 0);
        for (var i = 0; i < span.Length;)
        {
            CodePoints.At(span, i, out var length);
            i += length;
            if (++count == _length)
            {
                Emit(piece, start, i, next);
                (start, count) = (i, 0);
            }
        }

        Emit(piece, start, span.Length, next);
    }
}

/// <summary>Cuts where the script changes; kana count as Han, and spaces belong to what is before them.</summary>
internal sealed class ScriptSplitter : PreTokenizer
{
    /// <inheritdoc/>
    public override void Split(in TextSpan given, ITextSpanSink next)
    {
        var piece = given.Spelled();
        var span = piece.Span;
        var (start, last) = (-1, Script.Any);
        var seen = false;
        for (var i = 0; i < span.Length;)
        {
            var script = Scripts.Fixed(CodePoints.At(span, i, out var length));
            if (script != Script.Any && (!seen || script != last))
            {
                if (start >= 0)
                {
                    Emit(piece, start, i, next);
                }

                (start, last, seen) = (i, script, true);
            }

            i += length;
        }

        // The tokenizers library drops spaces at the start, and a text of nothing else.
        if (start >= 0)
        {
            Emit(piece, start, span.Length, next);
        }
    }
}
