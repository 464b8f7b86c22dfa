using System.Buffers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Models;

/// <summary>The symbols of one word while pairs of them are merged: a doubly linked list in pooled arrays.</summary>
internal sealed class SymbolList : IDisposable
{
    /// <summary>Up to here looking at all ranks for the lowest one is faster than keeping a heap.</summary>
    private const int Short = 40;

    private Symbol[] _symbols;

    /// <summary>An empty list with room for <paramref name="capacity"/> symbols.</summary>
    public SymbolList(int capacity) => _symbols = ArrayPool<Symbol>.Shared.Rent(Math.Max(capacity, 16));

    /// <summary>The number of symbols, merged ones included until the merging is over.</summary>
    public int Count { get; private set; }

    /// <summary>Appends a symbol.</summary>
    public void Add(int id, int start, int end)
    {
        if (Count == _symbols.Length)
        {
            var larger = ArrayPool<Symbol>.Shared.Rent(Count * 2);
            Array.Copy(_symbols, larger, Count);
            ArrayPool<Symbol>.Shared.Return(_symbols);
            _symbols = larger;
        }

        _symbols[Count++] = new Symbol { Id = id, Start = start, End = end };
    }

    /// <summary>Merges until no pair is left.</summary>
    public void Merge(PairTable merges)
    {
        if (Count <= Short)
        {
            MergeShort(merges);
        }
        else
        {
            MergeLong(merges, 0, null);
        }
    }

    /// <summary>Merges, leaving each step out with a probability (BPE dropout, Provilkov et al. 2020).</summary>
    public void Merge(PairTable merges, double dropout, Random random) => MergeLong(merges, dropout, random);

    /// <summary>Adds the symbols to a sink.</summary>
    public void CopyTo(TokenSink sink, int at)
    {
        for (var i = 0; i < Count; i++)
        {
            ref var symbol = ref _symbols[i];
            sink.Add(symbol.Id, at + symbol.Start, at + symbol.End);
        }
    }

    /// <summary>The symbols as an entry to remember.</summary>
    public WordCache.Entry ToEntry(string word)
    {
        var (ids, starts, ends) = (new int[Count], new int[Count], new int[Count]);
        for (var i = 0; i < Count; i++)
        {
            (ids[i], starts[i], ends[i]) = (_symbols[i].Id, _symbols[i].Start, _symbols[i].End);
        }

        return new WordCache.Entry(word, ids, starts, ends);
    }

    /// <summary>
    /// The tokenizers library counts the UTF-8 lengths of the tokens in their order: where characters were dropped, or byte pieces overtook an unknown token
    /// that waits to be joined, tokens so move away from their text. This does the same, each token taking the whole characters that its
    /// bytes touch.
    /// </summary>
    /// <param name="piece">The text.</param>
    /// <param name="lengths">How many bytes of UTF-8 each symbol stands for.</param>
    public void PlaceByLength(ReadOnlySpan<char> piece, List<int> lengths)
    {
        var owners = new List<(int Start, int End)>(piece.Length);
        for (var i = 0; i < piece.Length;)
        {
            var codePoint = CodePoints.At(piece, i, out var length);
            for (var b = CodePoints.Utf8Length(codePoint); b > 0; b--)
            {
                owners.Add((i, i + length));
            }

            i += length;
        }

        var at = 0;
        for (var i = 0; i < Count; i++)
        {
            var end = Math.Min(at + lengths[i], owners.Count);
            (_symbols[i].Start, _symbols[i].End) = (owners[Math.Min(at, owners.Count - 1)].Start, owners[end - 1].End);
            at = end;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => ArrayPool<Symbol>.Shared.Return(_symbols);

    private void MergeShort(PairTable merges)
    {
        Span<int> ranks = stackalloc int[Short];
        Span<int> results = stackalloc int[Short];
        var count = Count;
        for (var i = 0; i + 1 < count; i++)
        {
            ranks[i] = merges.Rank(_symbols[i].Id, _symbols[i + 1].Id, out results[i]);
        }

        while (count > 1)
        {
            var (best, at) = (int.MaxValue, -1);
            for (var i = 0; i < count - 1; i++)
            {
                if (ranks[i] < best)
                {
                    (best, at) = (ranks[i], i);
                }
            }

            if (at < 0)
            {
                break;
            }

            _symbols[at].Id = results[at];
            _symbols[at].End = _symbols[at + 1].End;
            var tail = count - at - 2;
            if (tail > 0)
            {
                Array.Copy(_symbols, at + 2, _symbols, at + 1, tail);
                ranks.Slice(at + 2, tail - 1).CopyTo(ranks[(at + 1)..]);
                results.Slice(at + 2, tail - 1).CopyTo(results[(at + 1)..]);
            }

            count--;
            if (at + 1 < count)
            {
                ranks[at] = merges.Rank(_symbols[at].Id, _symbols[at + 1].Id, out results[at]);
            }

            if (at > 0)
            {
                ranks[at - 1] = merges.Rank(_symbols[at - 1].Id, _symbols[at].Id, out results[at - 1]);
            }
        }

        Count = count;
    }

    private void MergeLong(PairTable merges, double dropout, Random? random)
    {
        var heap = new MergeHeap(Count);
        for (var i = 0; i < Count; i++)
        {
            _symbols[i].Previous = i - 1;
            _symbols[i].Next = i + 1 < Count ? i + 1 : -1;
            Offer(heap, merges, i);
        }

        var skipped = new List<ulong>();
        while (heap.TryPop(out var entry))
        {
            if (random is not null && random.NextDouble() < dropout)
            {
                skipped.Add(entry);
                continue;
            }

            foreach (var again in skipped)
            {
                heap.Push(again);
            }

            skipped.Clear();
            var (rank, at) = ((int)(entry >> 32), (int)(uint)entry);
            ref var left = ref _symbols[at];
            if (left.Id < 0 || left.Next < 0 || merges.Rank(left.Id, _symbols[left.Next].Id, out var result) != rank)
            {
                continue;
            }

            ref var right = ref _symbols[left.Next];
            left.Id = result;
            left.End = right.End;
            left.Next = right.Next;
            right.Id = -1;
            if (left.Next >= 0)
            {
                _symbols[left.Next].Previous = at;
                Offer(heap, merges, at);
            }

            if (left.Previous >= 0)
            {
                Offer(heap, merges, left.Previous);
            }
        }

        var kept = 0;
        for (var i = 0; i >= 0 && Count > 0; i = _symbols[i].Next)
        {
            var next = _symbols[i].Next;
            _symbols[kept] = _symbols[i];
            kept++;
            if (next < 0)
            {
                break;
            }
        }

        Count = kept;
    }

    private void Offer(MergeHeap heap, PairTable merges, int at)
    {
        var next = _symbols[at].Next;
        if (next < 0 || next >= Count)
        {
            return;
        }

        var rank = merges.Rank(_symbols[at].Id, _symbols[next].Id, out _);
        if (rank != int.MaxValue)
        {
            heap.Push(((ulong)(uint)rank << 32) | (uint)at);
        }
    }

    private struct Symbol
    {
        public int Id;
        public int Start;
        public int End;
        public int Previous;
        public int Next;
    }
}

/// <summary>A binary heap of (rank, position) in one number, lowest first.</summary>
internal sealed class MergeHeap(int capacity)
{
    private ulong[] _entries = new ulong[Math.Max(capacity, 16)];
    private int _count;

    /// <summary>Adds an entry.</summary>
    public void Push(ulong entry)
    {
        if (_count == _entries.Length)
        {
            Array.Resize(ref _entries, _count * 2);
        }

        var at = _count++;
        while (at > 0)
        {
            var parent = (at - 1) / 2;
            if (_entries[parent] <= entry)
            {
                break;
            }

            _entries[at] = _entries[parent];
            at = parent;
        }

        _entries[at] = entry;
    }

    /// <summary>Takes the lowest entry.</summary>
    public bool TryPop(out ulong entry)
    {
        if (_count == 0)
        {
            entry = 0;
            return false;
        }

        entry = _entries[0];
        var last = _entries[--_count];
        var at = 0;
        while (true)
        {
            var child = (at * 2) + 1;
            if (child >= _count)
            {
                break;
            }

            if (child + 1 < _count && _entries[child + 1] < _entries[child])
            {
                child++;
            }

            if (_entries[child] >= last)
            {
                break;
            }

            _entries[at] = _entries[child];
            at = child;
        }

        _entries[at] = last;
        return true;
    }
}
