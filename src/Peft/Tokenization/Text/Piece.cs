namespace Peft.Tokenization.Text;

/// <summary>A stretch of text on its way to the model: a slice of a shared string, and where its characters came from.</summary>
internal struct Piece
{
    /// <summary>A slice of <paramref name="source"/>.</summary>
    public Piece(string source, int start, int length, Alignment map, int originalStart)
    {
        Source = source;
        Start = start;
        Length = length;
        Map = map;
        OriginalStart = originalStart;
    }

    /// <summary>The string that this piece is a slice of.</summary>
    public string Source;

    /// <summary>Where the slice starts.</summary>
    public int Start;

    /// <summary>How long the slice is, in UTF-16 units.</summary>
    public int Length;

    /// <summary>Where the characters of <see cref="Source"/> came from.</summary>
    public Alignment Map;

    /// <summary>Where this piece starts in the original: characters inserted at its start belong there.</summary>
    public int OriginalStart;

    /// <summary>The added token this piece is, or -1.</summary>
    public int TokenId = -1;

    /// <summary>Whether the piece stands for its UTF-8 bytes, spelled in the byte-level alphabet (spelled out only when somebody looks).</summary>
    public bool Bytes;

    /// <summary>The characters of the slice.</summary>
    public readonly ReadOnlySpan<char> Span => Source.AsSpan(Start, Length);

    /// <summary>A part of this piece.</summary>
    public readonly Piece Slice(int start, int end)
    {
        var part = new Piece(Source, Start + start, end - start, Map, OriginalStart) { Bytes = Bytes };
        part.OriginalStart = start == end ? OriginalStart : Map.Start(Start + start);
        return part;
    }

    /// <summary>Spells the bytes out, so that character rules can look at them.</summary>
    public readonly Piece Spelled()
    {
        if (!Bytes)
        {
            return this;
        }

        var builder = new TextBuilder(Length + (Length / 2));
        ByteLevelAlphabet.Spell(Span, Start, Map, builder);
        return new Piece(builder.Text(), 0, builder.Count, builder.Alignment(), OriginalStart);
    }
}
