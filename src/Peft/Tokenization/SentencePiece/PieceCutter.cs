using Peft.Tokenization.Text;

namespace Peft.Tokenization.SentencePiece;

/// <summary>Cuts normalized text into the pieces of a SentencePiece model.</summary>
internal sealed class PieceCutter
{
    private const float UnknownPenalty = 10;
    private const char Blank = '\u2581';

    private readonly SentencePieceFile _file;
    private readonly CharTrie? _symbols;
    private readonly CharTrie _trie = new();
    private readonly Dictionary<string, int> _ids = new(StringComparer.Ordinal);
    private readonly Dictionary<string, int> _reserved = new(StringComparer.Ordinal);
    private readonly int _unknown;
    private readonly float _lowest = float.MaxValue;
    private readonly float _highest = 1.17549435E-38f;

    /// <summary>A cutter for a model.</summary>
    public PieceCutter(SentencePieceFile file, CharTrie? symbols, int unknown)
    {
        (_file, _symbols, _unknown) = (file, symbols, unknown);
        for (var id = 0; id < file.Pieces.Count; id++)
        {
            var piece = file.Pieces[id];
            if (piece.Type is PieceType.Normal or PieceType.UserDefined or PieceType.Unused)
            {
                _ids.TryAdd(piece.Text, id);
                if (piece.Text.Length > 0)
                {
                    _trie.Add(piece.Text, id);
                }
            }
            else
            {
                _reserved.TryAdd(piece.Text, id);
            }

            if (piece.Type == PieceType.Normal)
            {
                _lowest = Math.Min(_lowest, piece.Score);
                _highest = Math.Max(_highest, piece.Score);
            }
        }
    }

    /// <summary>The id of a piece, or that of the unknown piece.</summary>
    public int IdOf(string piece) => _reserved.TryGetValue(piece, out var id) || _ids.TryGetValue(piece, out id) ? id : _unknown;

    /// <summary>The lengths and ids of the pieces.</summary>
    public List<(int Length, int Id)> Cut(string text) => text.Length == 0 ? [] : _file.ModelType switch
    {
        PieceModelType.Unigram => Unigram(text),
        PieceModelType.BytePair => BytePair(text),
        PieceModelType.Word => Words(text),
        _ => Characters(text),
    };

    private List<(int Length, int Id)> Words(string text)
    {
        var words = new List<(int Length, int Id)>();
        for (var start = 0; start < text.Length;)
        {
            var next = text.IndexOf(Blank, start + 1);
            next = next < 0 ? text.Length : next;
            words.Add((next - start, IdOf(text[start..next])));
            start = next;
        }

        return words;
    }

    private List<(int Length, int Id)> Characters(string text)
    {
        var characters = new List<(int Length, int Id)>();
        for (var at = 0; at < text.Length;)
        {
            var length = SymbolLength(text, at, out _);
            characters.Add((length, IdOf(text.Substring(at, length))));
            at += length;
        }

        return characters;
    }

    /// <summary>The length of the user-defined symbol at a place, or else of the character.</summary>
    private int SymbolLength(string text, int at, out bool isSymbol)
    {
        if (_symbols is not null && _symbols.Longest(text.AsSpan(at), out var length) >= 0)
        {
            isSymbol = true;
            return length;
        }

        isSymbol = false;
        CodePoints.At(text, at, out length);
        return length;
    }

    /// <summary>The best path by score; a user-defined symbol beats any other cut of the same text.</summary>
    private List<(int Length, int Id)> Unigram(string text)
    {
        var (scores, from, ids) = (new float[text.Length + 1], new int[text.Length + 1], new int[text.Length + 1]);
        Array.Fill(from, -1);
        for (var start = 0; start < text.Length;)
        {
            CodePoints.At(text, start, out var character);
            var (single, node) = (false, CharTrie.Root);
            var bytes = 0;
            for (var end = start; end < text.Length;)
            {
                node = _trie.Child(node, text[end++]);
                if (node < 0)
                {
                    break;
                }

                var id = _trie.Value(node);
                if (id < 0 || _file.Pieces[id].Type == PieceType.Unused)
                {
                    continue;
                }

                bytes = _file.Pieces[id].Type == PieceType.UserDefined ? System.Text.Encoding.UTF8.GetByteCount(text.AsSpan(start, end - start)) : bytes;
                var score = _file.Pieces[id].Type == PieceType.UserDefined ? (bytes * _highest) - 0.1 : _file.Pieces[id].Score;
                Improve(start, end, scores[start] + score, id);
                single |= end - start == character;
            }

            if (!single)
            {
                Improve(start, start + character, _lowest - UnknownPenalty + scores[start], _unknown);
            }

            start += character;
        }

        var pieces = new List<(int Length, int Id)>();
        for (var end = text.Length; end > 0; end = from[end])
        {
            pieces.Add((end - from[end], ids[end]));
        }

        pieces.Reverse();
        return pieces;

        void Improve(int start, int end, double score, int id)
        {
            if (from[end] < 0 || score > scores[end])
            {
                (scores[end], from[end], ids[end]) = ((float)score, start, id);
            }
        }
    }

    /// <summary>A text's characters, and what may not be joined, each with its neighbours.</summary>
    private List<Symbol> Symbols(string text)
    {
        var symbols = new List<Symbol>();
        for (var at = 0; at < text.Length;)
        {
            var length = SymbolLength(text, at, out var frozen);
            symbols.Add(new Symbol { Start = at, Length = length, Frozen = frozen, Previous = symbols.Count - 1, Next = symbols.Count + 1 });
            at += length;
        }

        symbols[^1].Next = -1;
        return symbols;
    }

    /// <summary>Joins the neighbours whose union is the piece of highest score, leftmost first.</summary>
    private List<(int Length, int Id)> BytePair(string text)
    {
        var symbols = Symbols(text);
        var agenda = new PriorityQueue<(int Left, int Right, int Length), (float Score, int Left)>(
            Comparer<(float Score, int Left)>.Create((a, b) => a.Score != b.Score ? b.Score.CompareTo(a.Score) : a.Left.CompareTo(b.Left)));
        var halves = new Dictionary<string, (string Left, string Right)>(StringComparer.Ordinal);
        for (var i = 1; i < symbols.Count; i++)
        {
            Offer(i - 1, i);
        }

        while (agenda.TryDequeue(out var pair, out _))
        {
            var (left, right) = (symbols[pair.Left], symbols[pair.Right]);
            if (left.Length == 0 || right.Length == 0 || left.Length + right.Length != pair.Length)
            {
                continue;
            }

            left.Length += right.Length;
            left.Next = right.Next;
            if (right.Next >= 0)
            {
                symbols[right.Next].Previous = pair.Left;
            }

            right.Length = 0;
            Offer(left.Previous, pair.Left);
            Offer(pair.Left, left.Next);
        }

        var pieces = new List<(int Length, int Id)>();
        for (var i = 0; i >= 0; i = symbols[i].Next)
        {
            Resegment(text.Substring(symbols[i].Start, symbols[i].Length), halves, pieces);
        }

        return pieces;

        void Offer(int left, int right)
        {
            if (left < 0 || right < 0 || symbols[left].Frozen || symbols[right].Frozen)
            {
                return;
            }

            var length = symbols[left].Length + symbols[right].Length;
            var span = text.AsSpan(symbols[left].Start, length);
            if (!_ids.GetAlternateLookup<ReadOnlySpan<char>>().TryGetValue(span, out var id))
            {
                return;
            }

            agenda.Enqueue((left, right, length), (_file.Pieces[id].Score, left));
            if (_file.Pieces[id].Type == PieceType.Unused)
            {
                halves[span.ToString()] = (text.Substring(symbols[left].Start, symbols[left].Length), text.Substring(symbols[right].Start, symbols[right].Length));
            }
        }
    }

    /// <summary>Pieces that may not be used are taken apart again.</summary>
    private void Resegment(string piece, Dictionary<string, (string Left, string Right)> halves, List<(int Length, int Id)> pieces)
    {
        var id = IdOf(piece);
        if (_file.Pieces[id].Type == PieceType.Unused && halves.TryGetValue(piece, out var parts))
        {
            Resegment(parts.Left, halves, pieces);
            Resegment(parts.Right, halves, pieces);
        }
        else
        {
            pieces.Add((piece.Length, id));
        }
    }

    private sealed class Symbol
    {
        public int Start;
        public int Length;
        public bool Frozen;
        public int Previous;
        public int Next;
    }
}
