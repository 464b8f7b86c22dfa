namespace Peft.Tokenization.Text;

/// <summary>A prefix tree over UTF-16 units whose edges live in one open-addressing table.</summary>
internal sealed class CharTrie
{
    private const long Empty = -1;
    private long[] _keys = new long[64];
    private int[] _targets = new int[64];
    private int[] _values = new int[32];
    private int _edges;
    private int _nodes = 1;

    /// <summary>An empty tree.</summary>
    public CharTrie()
    {
        Array.Fill(_keys, Empty);
        Array.Fill(_values, -1);
    }

    /// <summary>The root.</summary>
    public const int Root = 0;

    /// <summary>Adds a key; returns false, changing nothing, where it is there already.</summary>
    public bool Add(ReadOnlySpan<char> key, int value)
    {
        var node = Root;
        foreach (var unit in key)
        {
            var next = Child(node, unit);
            node = next >= 0 ? next : AddEdge(node, unit);
        }

        if (_values[node] >= 0)
        {
            return false;
        }

        _values[node] = value;
        return true;
    }

    /// <summary>The child of a node, or -1.</summary>
    public int Child(int node, char unit)
    {
        var key = ((long)node << 16) | unit;
        var mask = _keys.Length - 1;
        for (var slot = (int)Slot(key) & mask; ; slot = (slot + 1) & mask)
        {
            var found = _keys[slot];
            if (found == key)
            {
                return _targets[slot];
            }

            if (found == Empty)
            {
                return -1;
            }
        }
    }

    /// <summary>The value at a node, or -1.</summary>
    public int Value(int node) => _values[node];

    /// <summary>The longest key that the text starts with: its value and length, or -1.</summary>
    public int Longest(ReadOnlySpan<char> text, out int length)
    {
        var (node, best) = (Root, -1);
        length = 0;
        for (var i = 0; i < text.Length; i++)
        {
            node = Child(node, text[i]);
            if (node < 0)
            {
                break;
            }

            if (_values[node] >= 0)
            {
                (best, length) = (_values[node], i + 1);
            }
        }

        return best;
    }

    private int AddEdge(int node, char unit)
    {
        if (_edges * 2 >= _keys.Length)
        {
            Grow();
        }

        if (_nodes == _values.Length)
        {
            Array.Resize(ref _values, _nodes * 2);
            Array.Fill(_values, -1, _nodes, _nodes);
        }

        Put(((long)node << 16) | unit, _nodes);
        _edges++;
        return _nodes++;
    }

    private void Put(long key, int target)
    {
        var mask = _keys.Length - 1;
        var slot = (int)Slot(key) & mask;
        while (_keys[slot] != Empty)
        {
            slot = (slot + 1) & mask;
        }

        _keys[slot] = key;
        _targets[slot] = target;
    }

    private void Grow()
    {
        var (keys, targets) = (_keys, _targets);
        _keys = new long[keys.Length * 2];
        _targets = new int[keys.Length * 2];
        Array.Fill(_keys, Empty);
        for (var i = 0; i < keys.Length; i++)
        {
            if (keys[i] != Empty)
            {
                Put(keys[i], targets[i]);
            }
        }
    }

    private static uint Slot(long key) => (uint)(((ulong)key * 0x9E3779B97F4A7C15) >> 32);
}
