using System.Buffers;
using Peft.Tokenization.Normalizers;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.AddedTokens;

/// <summary>Cuts added tokens out of a text: raw ones first, then, in what is left and normalized, those that match normalized text.</summary>
internal sealed class AddedVocabulary
{
    private readonly Dictionary<string, AddedToken> _byContent = new(StringComparer.Ordinal);
    private readonly Dictionary<int, AddedToken> _byId = [];
    private readonly Dictionary<int, string> _decoded = [];
    private readonly Normalizer? _normalizer;
    private readonly Finder? _raw;
    private readonly Finder? _normalized;

    /// <summary>A vocabulary; later tokens of the same content replace earlier ones.</summary>
    public AddedVocabulary(IEnumerable<AddedToken> tokens, Normalizer? normalizer)
    {
        _normalizer = normalizer;
        foreach (var token in tokens)
        {
            _byContent[token.Content] = token;
            _byId[token.Id] = token;
        }

        foreach (var token in _byId.Values.Where(token => token.Normalized && normalizer is not null))
        {
            _decoded[token.Id] = Normalize(token.Content);
        }

        // Where two tokens look the same after normalization, special ones win.
        var ordered = _byContent.Values.OrderBy(token => token.Special ? 0 : 1).ToList();
        _raw = Finder.Make(ordered.Where(token => !token.Normalized).Select(token => (token.Content, token)));
        _normalized = Finder.Make(ordered.Where(token => token.Normalized).Select(token => (Normalize(token.Content), token)));
    }

    /// <summary>All tokens.</summary>
    public IReadOnlyCollection<AddedToken> Tokens => _byId.Values;

    /// <summary>A token by its text.</summary>
    public AddedToken? Find(string content) => _byContent.GetValueOrDefault(content);

    /// <summary>A token by its id.</summary>
    public AddedToken? Find(int id) => _byId.GetValueOrDefault(id);

    /// <summary>How a token is spelled when it is decoded: as it looks in normalized text, where that is what it is looked for in.</summary>
    public string DecodedText(AddedToken token) => token.Normalized && _normalizer is not null ? _decoded[token.Id] : token.Content;

    /// <summary>Whether a text is that of a special token.</summary>
    public bool IsSpecial(string content) => _byContent.TryGetValue(content, out var token) && token.Special;

    /// <summary>Cuts a text into added tokens and normalized stretches between them.</summary>
    /// <param name="text">The original text.</param>
    /// <param name="plainSpecials">Whether special tokens in the text are read as plain text.</param>
    /// <param name="next">What takes the pieces.</param>
    public void Split(string text, bool plainSpecials, ITextSpanSink next)
    {
        var whole = new TextSpan(text, 0, text.Length, Alignment.Identity, 0);
        if (text.Length == 0)
        {
            return;
        }

        if (_raw is null)
        {
            SplitNormalized(whole, plainSpecials, next);
            return;
        }

        foreach (var (start, end, token) in _raw.Matches(text, plainSpecials))
        {
            var piece = whole.Slice(start, end);
            if (token is not null)
            {
                next.Add(piece with { TokenId = token.Id });
            }
            else if (start < end)
            {
                SplitNormalized(piece, plainSpecials, next);
            }
        }
    }

    private void SplitNormalized(TextSpan piece, bool plainSpecials, ITextSpanSink next)
    {
        if (_normalizer is not null)
        {
            var text = new NormalizedText(piece);
            _normalizer.Normalize(text);
            piece = text.AsTextSpan();
        }

        if (piece.Length == 0)
        {
            return;
        }

        if (_normalized is null)
        {
            next.Add(piece);
            return;
        }

        foreach (var (start, end, token) in _normalized.Matches(piece.Span.ToString(), plainSpecials))
        {
            if (token is not null || start < end)
            {
                next.Add(piece.Slice(start, end) with { TokenId = token?.Id ?? -1 });
            }
        }
    }

    private string Normalize(string content)
    {
        if (_normalizer is null)
        {
            return content;
        }

        var text = new NormalizedText(content);
        _normalizer.Normalize(text);
        return text.Text;
    }

    /// <summary>Finds the leftmost, then longest, of a set of strings.</summary>
    private sealed class Finder
    {
        private readonly CharTrie _trie = new();
        private readonly List<AddedToken> _tokens = [];
        private readonly SearchValues<char> _firsts;

        private Finder(List<(string Content, AddedToken Token)> entries)
        {
            foreach (var (content, token) in entries)
            {
                if (_trie.Add(content, _tokens.Count))
                {
                    _tokens.Add(token);
                }
            }

            _firsts = SearchValues.Create([.. entries.Select(entry => entry.Content[0]).Distinct()]);
        }

        public static Finder? Make(IEnumerable<(string Content, AddedToken Token)> entries)
        {
            var list = entries.Where(entry => entry.Content.Length > 0).ToList();
            return list.Count == 0 ? null : new Finder(list);
        }

        /// <summary>The stretches of the text in order, with their token where they are one.</summary>
        public IEnumerable<(int Start, int End, AddedToken? Token)> Matches(string text, bool plainSpecials)
        {
            var (at, last) = (0, 0);
            while (Find(text, ref at, out var start, out var end, out var token))
            {
                if ((plainSpecials && token.Special) || (token.SingleWord && InsideWord(text, start, end)))
                {
                    continue;
                }

                // No blank is looked at twice: what a token before this one took lies before `last`.
                if (token.StripLeft)
                {
                    while (start > last && char.IsWhiteSpace(text[start - 1]))
                    {
                        start--;
                    }

                    start = Math.Max(start, last);
                }

                end = token.StripRight ? Math.Max(end, last) : end;
                while (token.StripRight && end < text.Length && char.IsWhiteSpace(text[end]))
                {
                    end++;
                }

                // The spaces that the token before took can hold all of this one: then nothing is left of it.
                if (start > end)
                {
                    continue;
                }

                if (last < start)
                {
                    yield return (last, start, null);
                }

                if (start < end)
                {
                    yield return (start, end, token);
                }

                last = end;
            }

            if (last < text.Length)
            {
                yield return (last, text.Length, null);
            }
        }

        private bool Find(string text, ref int at, out int start, out int end, out AddedToken token)
        {
            while (at < text.Length)
            {
                var skip = text.AsSpan(at).IndexOfAny(_firsts);
                if (skip < 0)
                {
                    break;
                }

                at += skip;
                var found = _trie.Longest(text.AsSpan(at), out var length);
                if (found >= 0)
                {
                    (start, end, token) = (at, at + length, _tokens[found]);
                    at = end;
                    return true;
                }

                at++;
            }

            (start, end, token) = (0, 0, null!);
            return false;
        }

        private static bool InsideWord(string text, int start, int end) =>
            (start > 0 && WordCharacter.Is(CodePoints.Before(text, start, out _)))
            || (end < text.Length && WordCharacter.Is(CodePoints.At(text, end, out _)));
    }
}
