using System.Buffers;
using System.Globalization;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Models;

/// <summary>The most probable cut under a unigram language model (Kudo 2018), found by the Viterbi algorithm.</summary>
internal sealed class UnigramModel : TokenModel
{
    /// <summary>How much less than the least probable piece an unknown character counts.</summary>
    private const double UnknownPenalty = 10;

    private readonly CharTrie _trie = new();
    private readonly double[] _scores;
    private readonly double _unknownScore;
    private readonly int? _unknown;
    private readonly int[]? _fallback;

    /// <summary>A model over pieces and their log probabilities.</summary>
    public UnigramModel(IReadOnlyList<(string Text, double Score)> pieces, int? unknown, bool byteFallback)
        : base(Index(pieces))
    {
        _unknown = unknown;
        _scores = new double[pieces.Count];
        var lowest = double.PositiveInfinity;
        foreach (var (text, id) in Vocabulary)
        {
            if (text.Length > 0)
            {
                _trie.Add(text, id);
            }
        }

        for (var id = 0; id < pieces.Count; id++)
        {
            _scores[id] = pieces[id].Score;
            lowest = Math.Min(lowest, pieces[id].Score);
        }

        _unknownScore = lowest - UnknownPenalty;
        if (byteFallback)
        {
            _fallback = new int[256];
            for (var b = 0; b < 256; b++)
            {
                _fallback[b] = TokenId(string.Create(CultureInfo.InvariantCulture, $"<0x{b:X2}>")) ?? -1;
            }
        }
    }

    /// <inheritdoc/>
    public override void Tokenize(ReadOnlySpan<char> piece, TokenSink sink)
    {
        var nodes = ArrayPool<Node>.Shared.Rent(piece.Length + 1);
        try
        {
            var used = nodes.AsSpan(0, piece.Length + 1);
            used.Fill(new Node { From = -1 });
            Search(piece, used);
            Emit(piece, used, sink);
        }
        finally
        {
            ArrayPool<Node>.Shared.Return(nodes);
        }
    }

    private static Dictionary<string, int> Index(IReadOnlyList<(string Text, double Score)> pieces)
    {
        var index = new Dictionary<string, int>(pieces.Count, StringComparer.Ordinal);
        for (var id = 0; id < pieces.Count; id++)
        {
            index[pieces[id].Text] = id;
        }

        return index;
    }

    /// <summary>Fills in, for every position, the best last piece that ends there.</summary>
    private void Search(ReadOnlySpan<char> piece, Span<Node> nodes)
    {
        for (var start = 0; start < piece.Length;)
        {
            CodePoints.At(piece, start, out var character);
            var before = nodes[start].Score;
            var single = false;
            var node = CharTrie.Root;
            for (var end = start; end < piece.Length;)
            {
                node = _trie.Child(node, piece[end++]);
                if (node < 0)
                {
                    break;
                }

                var id = _trie.Value(node);
                if (id < 0)
                {
                    continue;
                }

                Improve(ref nodes[end], before + _scores[id], start, id);
                single |= end - start == character;
            }

            if (!single)
            {
                Improve(ref nodes[start + character], before + _unknownScore, start, _unknown ?? throw new PeftException(
                    "TokenizerUnknownTokenMissing", "The text has a character that the tokenizer's vocabulary lacks, and there is no unknown token."));
            }

            start += character;
        }
    }

    private static void Improve(ref Node node, double score, int from, int id)
    {
        if (node.From < 0 || score > node.Score)
        {
            node = new Node { Score = score, From = from, Id = id };
        }
    }

    /// <summary>Follows the best pieces back from the end, joining neighbouring unknown ones.</summary>
    private void Emit(ReadOnlySpan<char> piece, Span<Node> nodes, TokenSink sink)
    {
        // The links point backwards; turned round, they can be followed from the start.
        var next = -1;
        for (var at = piece.Length; at > 0;)
        {
            var from = nodes[at].From;
            nodes[at].Next = next;
            next = at;
            at = from;
        }

        var start = 0;
        while (next > 0)
        {
            var end = next;
            var id = nodes[end].Id;
            next = nodes[end].Next;
            if (id == _unknown)
            {
                while (next > 0 && nodes[next].Id == id)
                {
                    end = next;
                    next = nodes[end].Next;
                }

                EmitUnknown(piece[start..end], start, end, sink);
            }
            else
            {
                sink.Add(id, start, end);
            }

            start = end;
        }
    }

    private void EmitUnknown(ReadOnlySpan<char> text, int start, int end, TokenSink sink)
    {
        if (TryGetId(text, out var id))
        {
            sink.Add(id, start, end);
            return;
        }

        if (_fallback is not null)
        {
            var bytes = System.Text.Encoding.UTF8.GetBytes(text.ToString());
            if (Array.TrueForAll(bytes, value => _fallback[value] >= 0))
            {
                foreach (var value in bytes)
                {
                    sink.Add(_fallback[value], start, end);
                }

                return;
            }
        }

        sink.Add(_unknown!.Value, start, end, text.ToString());
    }

    private struct Node
    {
        public double Score;
        public int From;
        public int Id;
        public int Next;
    }
}
