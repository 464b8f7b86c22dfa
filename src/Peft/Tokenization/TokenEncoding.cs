namespace Peft.Tokenization;

/// <summary>What a tokenizer makes of a text, or of a pair of texts: one entry a token in every list.</summary>
public sealed class TokenEncoding
{
    private readonly Tokenizer? _tokenizer;
    private readonly Dictionary<int, string>? _ownTexts;
    private string[]? _tokens;

    internal TokenEncoding(Tokenizer? tokenizer, int[] ids, int[] typeIds, int[] attentionMask, int[] specialTokensMask,
        (int Start, int End)[] offsets, int[] wordIds, int[] sequenceIds, Dictionary<int, string>? ownTexts)
    {
        _tokenizer = tokenizer;
        _ownTexts = ownTexts;
        Ids = ids;
        TypeIds = typeIds;
        AttentionMask = attentionMask;
        SpecialTokensMask = specialTokensMask;
        Offsets = offsets;
        WordIds = wordIds;
        SequenceIds = sequenceIds;
    }

    /// <summary>The number of tokens.</summary>
    public int Count => Ids.Length;

    /// <summary>Token ids.</summary>
    public int[] Ids { get; }

    /// <summary>Segment ids (0 for the first text, 1 for the second, unless the post-processor says otherwise).</summary>
    public int[] TypeIds { get; }

    /// <summary>1 for tokens, 0 for padding.</summary>
    public int[] AttentionMask { get; }

    /// <summary>1 for tokens that the post-processor or padding added, 0 for tokens of the text.</summary>
    public int[] SpecialTokensMask { get; }

    /// <summary>
    /// Where each token stands in its original text, in UTF-16 units, so that <c>text[start..end]</c> is what the token was made of.
    /// Tokens that hold a part of a character have the whole character's span; added special tokens have (0, 0).
    /// </summary>
    public (int Start, int End)[] Offsets { get; }

    /// <summary>The word (piece between the pre-tokenizer's cuts, or the given word) that each token belongs to, or -1.</summary>
    public int[] WordIds { get; }

    /// <summary>0 for tokens of the first text, 1 for the second, -1 for special tokens.</summary>
    public int[] SequenceIds { get; }

    /// <summary>What truncation cut off, each piece a full encoding with its special tokens. Empty unless truncation is on.</summary>
    public IReadOnlyList<TokenEncoding> Overflowing { get; internal set; } = [];

    /// <summary>The tokens as the vocabulary spells them.</summary>
    public string[] Tokens => _tokens ??= MakeTokens();

    internal Tokenizer? Tokenizer => _tokenizer;

    internal Dictionary<int, string>? OwnTexts => _ownTexts;

    /// <summary>The offsets counted in Unicode code points of <paramref name="text"/>, as the Python packages count them.</summary>
    /// <param name="text">The text that was encoded.</param>
    public (int Start, int End)[] CodePointOffsets(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var counts = new int[text.Length + 1];
        var count = 0;
        for (var i = 0; i < text.Length;)
        {
            Text.CodePoints.At(text, i, out var length);
            counts[i] = count;
            if (length == 2)
            {
                counts[i + 1] = count;
            }

            i += length;
            count++;
        }

        counts[text.Length] = count;
        return Array.ConvertAll(Offsets, o => (counts[o.Start], counts[o.End]));
    }

    private string[] MakeTokens()
    {
        var tokens = new string[Ids.Length];
        for (var i = 0; i < tokens.Length; i++)
        {
            tokens[i] = _ownTexts is not null && _ownTexts.TryGetValue(i, out var own) ? own : _tokenizer?.TokenText(Ids[i]) ?? string.Empty;
        }

        return tokens;
    }
}
