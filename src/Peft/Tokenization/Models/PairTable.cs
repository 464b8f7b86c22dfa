namespace Peft.Tokenization.Models;

/// <summary>Merges by pair of token ids: an open-addressing table, since it is asked for every neighbouring pair of every word.</summary>
internal sealed class PairTable
{
    private const ulong Empty = ulong.MaxValue;
    private readonly ulong[] _keys;
    private readonly long[] _values;
    private readonly int _mask;
    private readonly int _shift;

    /// <summary>A table for <paramref name="count"/> merges.</summary>
    public PairTable(int count)
    {
        var bits = Math.Max(4, 64 - System.Numerics.BitOperations.LeadingZeroCount((ulong)Math.Max(1, count) * 2));
        _keys = new ulong[1 << bits];
        _values = new long[1 << bits];
        _mask = _keys.Length - 1;
        _shift = 64 - bits;
        Array.Fill(_keys, Empty);
    }

    /// <summary>Adds a merge; a pair that is there already gets the new rank, as the last line of a merges file wins.</summary>
    public void Set(int left, int right, int rank, int result)
    {
        var key = ((ulong)(uint)left << 32) | (uint)right;
        var slot = Slot(key);
        while (_keys[slot] != Empty && _keys[slot] != key)
        {
            slot = (slot + 1) & _mask;
        }

        _keys[slot] = key;
        _values[slot] = ((long)rank << 32) | (uint)result;
    }

    /// <summary>Rank and result of merging two tokens; the rank is <see cref="int.MaxValue"/> where they don't merge.</summary>
    public int Rank(int left, int right, out int result)
    {
        var key = ((ulong)(uint)left << 32) | (uint)right;
        for (var slot = Slot(key); ; slot = (slot + 1) & _mask)
        {
            var found = _keys[slot];
            if (found == key)
            {
                var value = _values[slot];
                result = (int)value;
                return (int)(value >> 32);
            }

            if (found == Empty)
            {
                result = -1;
                return int.MaxValue;
            }
        }
    }

    private int Slot(ulong key) => (int)((key * 0x9E3779B97F4A7C15) >> _shift);
}
