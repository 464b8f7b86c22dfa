namespace Peft.Tokenization.Text;

/// <summary>A text that normalizers change step by step while every character keeps its place in the original.</summary>
internal sealed class NormalizedText
{
    private readonly int _originalStart;
    private readonly long _limit;

    /// <summary>Starts from a piece.</summary>
    public NormalizedText(TextSpan piece)
    {
        Text = piece.Length == piece.Source.Length ? piece.Source : piece.Span.ToString();
        Map = piece.Start == 0 || !piece.Map.IsShift ? piece.Map : new Alignment(piece.Map.Shift + piece.Start);
        if (piece.Start != 0 && !piece.Map.IsShift)
        {
            throw new InvalidOperationException("normalizers run before anything cuts a mapped text");
        }

        _originalStart = piece.OriginalStart;
        _limit = TextGrowth.Limit(Text.Length);
    }

    /// <summary>Starts from a plain string.</summary>
    public NormalizedText(string text)
    {
        Text = text;
        Map = Alignment.Identity;
        _limit = TextGrowth.Limit(Text.Length);
    }

    /// <summary>The text so far.</summary>
    public string Text { get; private set; }

    /// <summary>Where its characters came from.</summary>
    public Alignment Map { get; private set; }

    /// <summary>The whole of it as a piece.</summary>
    public TextSpan AsTextSpan() => new(Text, 0, Text.Length, Map, _originalStart);

    /// <summary>Replaces the text by one of the same length whose characters stand where the old ones stood.</summary>
    public void SetSameLength(string text) => Text = text;

    /// <summary>A builder for what is to replace this text; it takes no more than a tokenizer's rules may make of it.</summary>
    public TextBuilder Builder(long capacity)
    {
        TextGrowth.Check(capacity, Math.Max(_limit, 2L * Text.Length));
        return new TextBuilder((int)capacity, _limit);
    }

    /// <summary>Throws where a list of so many code points is more than a tokenizer's rules may make of the text.</summary>
    public void CheckLength(long count) => TextGrowth.Check(count, _limit);

    /// <summary>Replaces text and origins.</summary>
    public void Set(TextBuilder builder)
    {
        Text = builder.Text();
        Map = builder.Alignment();
    }

    /// <summary>
    /// Replaces the whole text by a list of code points. A change of 0 takes the place of the next old code point, -n of the next one and
    /// swallows n more, +1 is inserted and shares the place of the old code point before it.
    /// </summary>
    /// <param name="items">The new code points.</param>
    /// <param name="skip">Old code points dropped at the start.</param>
    public void Transform(List<(int CodePoint, int Change)> items, int skip = 0)
    {
        var text = Text;
        var builder = Builder(text.Length + 16L);
        var offset = Skip(text, 0, skip);
        foreach (var (codePoint, change) in items)
        {
            int start, end;
            if (change > 0)
            {
                (start, end) = Before(offset);
            }
            else if (offset < text.Length)
            {
                CodePoints.At(text, offset, out var length);
                (start, end) = (Map.Start(offset), Map.End(offset + length - 1));
                offset = Skip(text, offset + length, -change);
            }
            else
            {
                (start, end) = Before(text.Length);
            }

            builder.AddCodePoint(codePoint, start, end);
        }

        Set(builder);
    }

    /// <summary>Keeps the code points that <paramref name="keep"/> wants.</summary>
    public void Filter(Func<int, bool> keep)
    {
        var text = Text;
        var first = 0;
        for (; first < text.Length;)
        {
            if (!keep(CodePoints.At(text, first, out var length)))
            {
                break;
            }

            first += length;
        }

        if (first == text.Length)
        {
            return;
        }

        var builder = Builder(text.Length);
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            if (i < first || keep(codePoint))
            {
                builder.AddCodePoint(codePoint, Map.Start(i), Map.End(i + length - 1));
            }

            i += length;
        }

        Set(builder);
    }

    /// <summary>Puts a string before the first character; it shares that character's place.</summary>
    public void Prepend(string prefix)
    {
        if (Text.Length == 0)
        {
            return;
        }

        CodePoints.At(Text, 0, out var length);
        var (start, end) = (Map.Start(0), Map.End(length - 1));
        var builder = Builder((long)Text.Length + prefix.Length);
        foreach (var unit in prefix)
        {
            builder.Add(unit, start, end);
        }

        Append(builder, 0, Text.Length);
        Set(builder);
    }

    /// <summary>Cuts to a part of the text.</summary>
    public void Cut(int start, int end)
    {
        if (start == 0 && end == Text.Length)
        {
            return;
        }

        var builder = Builder(end - start);
        Append(builder, start, end);
        Set(builder);
    }

    /// <summary>Appends a part of this text with its origins.</summary>
    public void Append(TextBuilder builder, int start, int end)
    {
        for (var i = start; i < end;)
        {
            CodePoints.At(Text, i, out var length);
            var (from, to) = (Map.Start(i), Map.End(i + length - 1));
            for (var unit = 0; unit < length; unit++)
            {
                builder.Add(Text[i + unit], from, to);
            }

            i += length;
        }
    }

    /// <summary>The origin of the code point before <paramref name="index"/>, or the start of the text.</summary>
    public (int Start, int End) Before(int index)
    {
        if (index < 1)
        {
            return (_originalStart, _originalStart);
        }

        CodePoints.Before(Text, index, out var length);
        return (Map.Start(index - length), Map.End(index - 1));
    }

    private static int Skip(string text, int index, int count)
    {
        for (; count > 0 && index < text.Length; count--)
        {
            CodePoints.At(text, index, out var length);
            index += length;
        }

        return index;
    }
}
