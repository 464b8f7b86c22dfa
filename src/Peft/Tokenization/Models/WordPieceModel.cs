using Peft.Tokenization.Text;

namespace Peft.Tokenization.Models;

/// <summary>Longest match from the left; a word that can't be covered is one unknown token (BERT).</summary>
internal sealed class WordPieceModel : TokenModel
{
    private readonly CharTrie _words = new();
    private readonly CharTrie _continuations = new();
    private readonly string _unknownToken;
    private readonly int _longest;
    private readonly WordCache _cache = new();

    /// <summary>A model.</summary>
    /// <param name="vocabulary">Tokens and ids.</param>
    /// <param name="unknownToken">The token of words that can't be covered.</param>
    /// <param name="continuingPrefix">What tokens inside a word start with.</param>
    /// <param name="longest">Words with more code points are unknown.</param>
    public WordPieceModel(Dictionary<string, int> vocabulary, string unknownToken, string continuingPrefix, int longest)
        : base(vocabulary)
    {
        _unknownToken = unknownToken;
        _longest = longest;
        foreach (var (token, id) in vocabulary)
        {
            _words.Add(token, id);
            if (token.StartsWith(continuingPrefix, StringComparison.Ordinal))
            {
                _continuations.Add(token.AsSpan(continuingPrefix.Length), id);
            }
        }
    }

    /// <inheritdoc/>
    public override void Tokenize(ReadOnlySpan<char> piece, TokenSink sink)
    {
        if (piece.Length > _longest && CodePoints.Count(piece) > _longest)
        {
            sink.Add(Unknown(), 0, piece.Length);
            return;
        }

        var slot = -1;
        if (piece.Length <= WordCache.LongestWord && _cache.Find(piece, out slot) is { } known)
        {
            Replay(known, sink);
            return;
        }

        var entry = Cut(piece);
        if (slot >= 0)
        {
            _cache.Store(slot, entry);
        }

        Replay(entry, sink);
    }

    private WordCache.Entry Cut(ReadOnlySpan<char> piece)
    {
        var (ids, starts, ends) = (new List<int>(4), new List<int>(4), new List<int>(4));
        for (var at = 0; at < piece.Length;)
        {
            var id = (at == 0 ? _words : _continuations).Longest(piece[at..], out var length);
            if (id < 0 || length == 0)
            {
                return new WordCache.Entry(piece.ToString(), [Unknown()], [0], [piece.Length]);
            }

            ids.Add(id);
            starts.Add(at);
            at += length;
            ends.Add(at);
        }

        return new WordCache.Entry(piece.ToString(), [.. ids], [.. starts], [.. ends]);
    }

    private static void Replay(WordCache.Entry known, TokenSink sink)
    {
        for (var i = 0; i < known.Ids.Length; i++)
        {
            sink.Add(known.Ids[i], known.Starts[i], known.Ends[i]);
        }
    }

    private int Unknown() => TryGetId(_unknownToken, out var id)
        ? id
        : throw new PeftException("TokenizerUnknownTokenMissing",
            $"The tokenizer's unknown token \"{_unknownToken}\" isn't in its vocabulary, and the text needs it.");
}
