using System.Globalization;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Models;

/// <summary>What a byte-pair model can be told besides vocabulary and merges; the fields of <c>model</c> in tokenizer.json.</summary>
internal sealed record BytePairOptions
{
    public string? UnknownToken { get; init; }

    public string? ContinuingPrefix { get; init; }

    public string? EndOfWordSuffix { get; init; }

    public bool FuseUnknown { get; init; }

    public bool ByteFallback { get; init; }

    public bool IgnoreMerges { get; init; }

    public double Dropout { get; init; }
}

/// <summary>
/// Byte-pair encoding (Sennrich et al. 2016): starts from characters, or bytes, and joins the neighbouring pair of lowest rank, leftmost
/// first, until no pair is left.
/// </summary>
internal sealed class BytePairModel : TokenModel
{
    private readonly PairTable _merges;
    private readonly BytePairOptions _options;
    private readonly int? _unknown;
    private readonly int[] _byteTokens = new int[256];
    private readonly int[] _fallback = new int[256];
    private readonly WordCache _cache = new();
    private readonly bool _everyByte = true;
    private readonly bool _plainBytes;
    private readonly bool _misplaces;
    private readonly char _wordStart;

    /// <summary>A model; throws where a merge names a token that isn't in the vocabulary.</summary>
    public BytePairModel(Dictionary<string, int> vocabulary, IReadOnlyList<(string Left, string Right)> merges, BytePairOptions options)
        : this(vocabulary, Table(vocabulary, merges, options), options) => _wordStart = WordStart(vocabulary, merges, options.ContinuingPrefix?.Length ?? 0);

    private BytePairModel(Dictionary<string, int> vocabulary, PairTable merges, BytePairOptions options)
        : base(vocabulary)
    {
        _options = options;
        _merges = merges;
        _unknown = options.UnknownToken is { } unknown && vocabulary.TryGetValue(unknown, out var unknownId) ? unknownId : null;
        for (var b = 0; b < 256; b++)
        {
            _byteTokens[b] = vocabulary.TryGetValue(ByteLevelAlphabet.Character((byte)b).ToString(), out var id) ? id : -1;
            _everyByte &= _byteTokens[b] >= 0;
            _fallback[b] = vocabulary.TryGetValue(string.Create(CultureInfo.InvariantCulture, $"<0x{b:X2}>"), out var spare) ? spare : -1;
        }

        _plainBytes = _everyByte && string.IsNullOrEmpty(options.ContinuingPrefix) && string.IsNullOrEmpty(options.EndOfWordSuffix);
        var anyByte = options.ByteFallback && !_fallback.Contains(-1);
        _misplaces = !anyByte && (options.ByteFallback || options.UnknownToken is null);
    }

    /// <summary>A model as tiktoken has it: any two neighbours that spell a token join, those first whose token has the lowest id; a whole piece that is a token is taken at once.</summary>
    /// <param name="ranks">Tokens in the byte-level alphabet, with their ids.</param>
    public static BytePairModel OfRanks(Dictionary<string, int> ranks)
    {
        var lookup = ranks.GetAlternateLookup<ReadOnlySpan<char>>();
        var pairs = new List<(int Left, int Right, int Result)>();
        foreach (var (text, id) in ranks)
        {
            for (var cut = 1; cut < text.Length; cut++)
            {
                if (lookup.TryGetValue(text.AsSpan(0, cut), out var left) && lookup.TryGetValue(text.AsSpan(cut), out var right))
                {
                    pairs.Add((left, right, id));
                }
            }
        }

        var table = new PairTable(pairs.Count);
        foreach (var (left, right, result) in pairs)
        {
            table.Set(left, right, result, result);
        }

        return new BytePairModel(ranks, table, new BytePairOptions { IgnoreMerges = true });
    }

    /// <inheritdoc/>
    public override bool ReadsBytes => _plainBytes && _options.Dropout == 0;

    /// <summary>The random numbers of dropout; fixed by tests.</summary>
    internal Random Random { get; set; } = Random.Shared;

    /// <inheritdoc/>
    public override void TokenizeBytes(ReadOnlySpan<char> piece, TokenSink sink)
    {
        var slot = -1;
        if (piece.Length <= WordCache.LongestWord)
        {
            if (_cache.Find(piece, out slot) is { } known)
            {
                Replay(known, 0, sink);
                return;
            }
        }

        using var word = new SymbolList(piece.Length * 3);
        if (_options.IgnoreMerges && TryGetWhole(piece, out var whole))
        {
            word.Add(whole, 0, piece.Length);
        }
        else
        {
            StartBytes(piece, word);
            word.Merge(_merges);
        }

        Emit(word, piece, 0, slot, sink);
    }

    /// <inheritdoc/>
    public override void Tokenize(ReadOnlySpan<char> piece, TokenSink sink)
    {
        if (piece.IsEmpty)
        {
            return;
        }

        if (_options.IgnoreMerges && TryGetId(piece, out var whole))
        {
            sink.Add(whole, 0, piece.Length);
            return;
        }

        if (_wordStart == '\0')
        {
            TokenizeWord(piece, 0, sink);
            return;
        }

        // No merge reaches across the start of a word, so words can be cut, and remembered, one by one.
        for (var start = 0; start < piece.Length;)
        {
            var end = start + 1;
            while (end < piece.Length && !(piece[end] == _wordStart && piece[end - 1] != _wordStart))
            {
                end++;
            }

            TokenizeWord(piece[start..end], start, sink);
            start = end;
        }
    }

    /// <summary>
    /// The character that only ever starts a merged token (▁ in SentencePiece vocabularies), so that no merge crosses from another
    /// character to it; '\0' where there is none.
    /// </summary>
    private char WordStart(Dictionary<string, int> vocabulary, IReadOnlyList<(string Left, string Right)> merges, int prefix)
    {
        const char Mark = '\u2581';
        var cuttable = prefix == 0 && string.IsNullOrEmpty(_options.EndOfWordSuffix) && _options.Dropout == 0
            && !_options.IgnoreMerges && vocabulary.ContainsKey(Mark.ToString())
            && (_unknown is not null || (_options.ByteFallback && !_fallback.Contains(-1)));
        if (!cuttable)
        {
            return '\0';
        }

        var spansWords = merges.Any(merge => merge.Right[0] == Mark && merge.Left[^1] != Mark);
        return spansWords ? '\0' : Mark;
    }

    private static PairTable Table(Dictionary<string, int> vocabulary, IReadOnlyList<(string Left, string Right)> merges, BytePairOptions options)
    {
        var table = new PairTable(merges.Count);
        var prefix = options.ContinuingPrefix?.Length ?? 0;
        for (var rank = 0; rank < merges.Count; rank++)
        {
            var (left, right) = merges[rank];
            if (left.Length == 0 || right.Length == 0)
            {
                throw new PeftException("TokenizerFileInvalid", $"Merge {rank} of the tokenizer (\"{left}\" and \"{right}\") has an empty part.");
            }

            if (!vocabulary.TryGetValue(left, out var leftId) || !vocabulary.TryGetValue(right, out var rightId)
                || right.Length < prefix || !vocabulary.TryGetValue(left + right[prefix..], out var result))
            {
                throw new PeftException("TokenizerFileInvalid",
                    $"Merge {rank} of the tokenizer (\"{left}\" and \"{right}\") names a token that its vocabulary lacks.");
            }

            table.Set(leftId, rightId, rank, result);
        }

        return table;
    }

    private void StartBytes(ReadOnlySpan<char> piece, SymbolList word)
    {
        Span<byte> bytes = stackalloc byte[4];
        for (var i = 0; i < piece.Length;)
        {
            var codePoint = CodePoints.At(piece, i, out var length);
            var count = ByteLevelAlphabet.Utf8(codePoint, bytes);
            for (var b = 0; b < count; b++)
            {
                word.Add(_byteTokens[bytes[b]], i, i + length);
            }

            i += length;
        }
    }

    private bool TryGetWhole(ReadOnlySpan<char> piece, out int id)
    {
        var spelled = new TextBuilder(piece.Length * 2);
        ByteLevelAlphabet.Spell(piece, 0, Alignment.Identity, spelled);
        return TryGetId(spelled.Text(), out id);
    }

    private void TokenizeWord(ReadOnlySpan<char> piece, int at, TokenSink sink)
    {
        var slot = -1;
        var remember = piece.Length <= WordCache.LongestWord && _options.Dropout == 0;
        if (remember && _cache.Find(piece, out slot) is { } known)
        {
            Replay(known, at, sink);
            return;
        }

        using var word = new SymbolList(piece.Length);
        Start(piece, word);
        if (_options.Dropout > 0)
        {
            word.Merge(_merges, _options.Dropout, Random);
        }
        else
        {
            word.Merge(_merges);
        }

        Emit(word, piece, at, remember ? slot : -1, sink);
    }

    /// <summary>The symbols that merging starts from.</summary>
    private void Start(ReadOnlySpan<char> piece, SymbolList word)
    {
        var (prefix, suffix) = (_options.ContinuingPrefix, _options.EndOfWordSuffix);
        var (pending, pendingStart, pendingEnd, pendingLength) = (false, 0, 0, 0);
        var lengths = _misplaces ? new List<int>(piece.Length) : null;
        var misplaced = false;
        Span<byte> bytes = stackalloc byte[4];
        for (var i = 0; i < piece.Length;)
        {
            var codePoint = CodePoints.At(piece, i, out var length);
            var end = i + length;
            var first = i > 0 && !string.IsNullOrEmpty(prefix) ? prefix : "";
            var last = end == piece.Length && !string.IsNullOrEmpty(suffix) ? suffix : "";
            if (first.Length + last.Length == 0 ? TryGetId(piece[i..end], out var id) : TryGetId(string.Concat(first, piece[i..end], last), out id))
            {
                Flush();
                word.Add(id, i, end);
                lengths?.Add(CodePoints.Utf8Length(codePoint));
            }
            else if (_options.ByteFallback && AddBytes(codePoint, first, last, i, end, bytes, word))
            {
                misplaced |= pending;
                lengths?.AddRange(Enumerable.Repeat(1, word.Count - lengths.Count));
            }
            else if (_options.UnknownToken is null)
            {
                misplaced = true;
            }
            else if (pending && _options.FuseUnknown)
            {
                pendingEnd = end;
                pendingLength += CodePoints.Utf8Length(codePoint);
            }
            else
            {
                Flush();
                (pending, pendingStart, pendingEnd, pendingLength) = (true, i, end, CodePoints.Utf8Length(codePoint));
            }

            i = end;
        }

        Flush();
        if (misplaced)
        {
            word.PlaceByLength(piece, lengths!);
        }

        void Flush()
        {
            if (pending)
            {
                word.Add(Unknown(), pendingStart, pendingEnd);
                lengths?.Add(pendingLength);
                pending = false;
            }
        }
    }

    private int Unknown() => _unknown ?? throw new PeftException("TokenizerUnknownTokenMissing",
        $"The tokenizer's unknown token \"{_options.UnknownToken}\" isn't in its vocabulary, and the text needs it.");

    /// <summary>Adds the byte pieces of a character that the vocabulary lacks, where it has all of them.</summary>
    private bool AddBytes(int codePoint, string prefix, string suffix, int start, int end, Span<byte> bytes, SymbolList word)
    {
        var count = ByteLevelAlphabet.Utf8(codePoint, bytes);
        var around = System.Text.Encoding.UTF8.GetBytes(prefix + suffix);
        foreach (var value in bytes[..count])
        {
            if (_fallback[value] < 0)
            {
                return false;
            }
        }

        if (around.Any(value => _fallback[value] < 0))
        {
            return false;
        }

        foreach (var value in System.Text.Encoding.UTF8.GetBytes(prefix))
        {
            word.Add(_fallback[value], start, end);
        }

        foreach (var value in bytes[..count])
        {
            word.Add(_fallback[value], start, end);
        }

        foreach (var value in System.Text.Encoding.UTF8.GetBytes(suffix))
        {
            word.Add(_fallback[value], start, end);
        }

        return true;
    }

    private static void Replay(WordCache.Entry known, int at, TokenSink sink)
    {
        var ids = known.Ids;
        for (var i = 0; i < ids.Length; i++)
        {
            sink.Add(ids[i], at + known.Starts[i], at + known.Ends[i]);
        }
    }

    private void Emit(SymbolList word, ReadOnlySpan<char> piece, int at, int slot, TokenSink sink)
    {
        if (slot < 0)
        {
            word.CopyTo(sink, at);
            return;
        }

        var entry = word.ToEntry(piece.ToString());
        _cache.Store(slot, entry);
        Replay(entry, at, sink);
    }
}
