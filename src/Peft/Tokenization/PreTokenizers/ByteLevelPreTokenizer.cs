using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>GPT-2's pre-tokenizer: an optional space in front, GPT-2's pattern, and bytes in place of characters.</summary>
internal sealed class ByteLevelPreTokenizer(bool addPrefixSpace, bool usePattern) : PreTokenizer
{
    /// <inheritdoc/>
    public override void Split(in TextSpan given, ITextSpanSink next)
    {
        var piece = given.Spelled();
        if (addPrefixSpace && piece.Span[0] != ' ')
        {
            piece = Prefixed.With(piece, " ");
        }

        piece = piece with { Bytes = true };
        if (!usePattern)
        {
            next.Add(piece);
            return;
        }

        var state = MatchState.Start;
        var span = piece.Span;
        while (Gpt2Scanner.Instance.Next(span, ref state, out var start, out var end))
        {
            next.Add(piece.Slice(start, end));
        }
    }
}

/// <summary>Puts characters in front of a piece.</summary>
internal static class Prefixed
{
    /// <summary>The piece with a prefix that has the place of its first character.</summary>
    public static TextSpan With(in TextSpan piece, string prefix)
    {
        var builder = new TextBuilder(piece.Length + prefix.Length);
        CodePoints.At(piece.Span, 0, out var length);
        foreach (var unit in prefix)
        {
            builder.Add(unit, piece.Map.Start(piece.Start), piece.Map.End(piece.Start + length - 1));
        }

        Copy(piece, builder, 0, piece.Length, null);
        return new TextSpan(builder.Text(), 0, builder.Count, builder.Alignment(), piece.OriginalStart);
    }

    /// <summary>Appends a part of a piece, with each unit's origin, replacing units where asked to.</summary>
    public static void Copy(in TextSpan piece, TextBuilder builder, int start, int end, Func<char, char>? replace)
    {
        var span = piece.Span;
        for (var i = start; i < end;)
        {
            CodePoints.At(span, i, out var length);
            var (from, to) = (piece.Map.Start(piece.Start + i), piece.Map.End(piece.Start + i + length - 1));
            for (var unit = 0; unit < length; unit++)
            {
                builder.Add(replace is null ? span[i + unit] : replace(span[i + unit]), from, to);
            }

            i += length;
        }
    }
}
