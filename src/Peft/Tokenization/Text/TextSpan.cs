namespace Peft.Tokenization.Text;

/// <summary>A stretch of text on its way to the model: a slice of a shared string, and where its characters came from.</summary>
/// <param name="Source">The string that this piece is a slice of.</param>
/// <param name="Start">Where the slice starts.</param>
/// <param name="Length">How long the slice is, in UTF-16 units.</param>
/// <param name="Map">Where the characters of <paramref name="Source"/> came from.</param>
/// <param name="OriginalStart">Where this piece starts in the original: characters inserted at its start belong there.</param>
internal readonly record struct TextSpan(string Source, int Start, int Length, Alignment Map, int OriginalStart)
{
    /// <summary>The added token this piece is, or -1.</summary>
    public int TokenId { get; init; } = -1;

    /// <summary>Whether the piece stands for its UTF-8 bytes, spelled in the byte-level alphabet (spelled out only when somebody looks).</summary>
    public bool Bytes { get; init; }

    /// <summary>The characters of the slice.</summary>
    public ReadOnlySpan<char> Span => Source.AsSpan(Start, Length);

    /// <summary>A part of this piece.</summary>
    public TextSpan Slice(int start, int end) =>
        new(Source, Start + start, end - start, Map, start == end ? OriginalStart : Map.Start(Start + start)) { Bytes = Bytes };

    /// <summary>Spells the bytes out, so that character rules can look at them.</summary>
    public TextSpan Spelled()
    {
        if (!Bytes)
        {
            return this;
        }

        var builder = new TextBuilder(Length + (Length / 2));
        ByteLevelAlphabet.Spell(Span, Start, Map, builder);
        return new TextSpan(builder.Text(), 0, builder.Count, builder.Alignment(), OriginalStart);
    }
}
