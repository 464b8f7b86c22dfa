using System.Numerics;

namespace Peft.Adapters.Methods.UniLora;

/// <summary>
/// The numbers of NumPy's <c>default_rng(seed)</c>: PCG64 (O'Neill 2014, XSL-RR, 128 bits of state) seeded by NumPy's SeedSequence, with Lemire's bounded
/// integers (2019). Peft's own, for adapters whose random parts PEFT draws with NumPy and doesn't save.
/// </summary>
internal sealed class NumpyGenerator
{
    private static readonly UInt128 s_multiplier = new(0x2360ED051FC65DA4, 0x4385DF649FCCF645);

    private readonly UInt128 _increment;
    private UInt128 _state;
    private uint? _half;

    /// <summary>Seeds it as NumPy does with a whole number of 32 bits.</summary>
    public NumpyGenerator(uint seed)
    {
        var words = SeedWords(seed);
        _increment = (new UInt128(words[2], words[3]) << 1) | 1;
        Step();
        _state += new UInt128(words[0], words[1]);
        Step();
    }

    /// <summary>Different numbers below a bound, in random order (<c>choice(total, count, replace=False)</c>).</summary>
    public long[] Choose(int total, int count)
    {
        if (total > 10000 && count > total / 50)
        {
            long[] all = [.. Enumerable.Range(0, total).Select(static number => (long)number)];
            Shuffle(all, Math.Max(total - count, 1), Below);
            return all[(total - count)..];
        }

        // Floyd's algorithm: each number once, then shuffled.
        var chosen = new long[count];
        HashSet<long> seen = [];
        for (var top = total - count; top < total; top++)
        {
            var number = Below((uint)top);
            chosen[top - total + count] = seen.Add(number) ? number : top;
            seen.Add(chosen[top - total + count]);
        }

        Shuffle(chosen, 1, Below);
        return chosen;
    }

    /// <summary>Shuffles in place (<c>shuffle</c>).</summary>
    public void Shuffle(long[] values) => Shuffle(values, 1, Masked);

    private static void Shuffle(long[] values, int first, Func<uint, uint> draw)
    {
        for (var i = values.Length - 1; i >= first; i--)
        {
            var other = draw((uint)i);
            (values[i], values[other]) = (values[other], values[i]);
        }
    }

    /// <summary>A whole number from 0 to <paramref name="most"/>, by drawing as many bits as it has until they are no more.</summary>
    private uint Masked(uint most)
    {
        var mask = (uint)((1UL << (32 - BitOperations.LeadingZeroCount(most))) - 1);
        uint number;
        do
        {
            number = Next() & mask;
        }
        while (number > most);
        return number;
    }

    /// <summary>A whole number from 0 to <paramref name="most"/>, by a product with 32 bits.</summary>
    private uint Below(uint most)
    {
        if (most == 0)
        {
            return 0;
        }

        var count = most + 1;
        var product = (ulong)Next() * count;
        if ((uint)product < count)
        {
            var threshold = (uint.MaxValue - most) % count;
            while ((uint)product < threshold)
            {
                product = (ulong)Next() * count;
            }
        }

        return (uint)(product >> 32);
    }

    /// <summary>32 bits: of each 64 the lower half first.</summary>
    private uint Next()
    {
        if (_half is { } upper)
        {
            _half = null;
            return upper;
        }

        Step();
        var word = ulong.RotateRight((ulong)(_state >> 64) ^ (ulong)_state, (int)(_state >> 122));
        _half = (uint)(word >> 32);
        return (uint)word;
    }

    private void Step() => _state = (_state * s_multiplier) + _increment;

    /// <summary>SeedSequence: the seed is spread over a pool of four words, from which eight are drawn.</summary>
    private static ulong[] SeedWords(uint seed)
    {
        var pool = new uint[4];
        var factor = 0x43b0d7e5u;
        for (var i = 0; i < pool.Length; i++)
        {
            pool[i] = Spread(i == 0 ? seed : 0, ref factor, 0x931e8875);
        }

        for (var from = 0; from < pool.Length; from++)
        {
            for (var to = 0; to < pool.Length; to++)
            {
                if (from != to)
                {
                    var mixed = unchecked((0xca01f9ddu * pool[to]) - (0x4973f715u * Spread(pool[from], ref factor, 0x931e8875)));
                    pool[to] = mixed ^ (mixed >> 16);
                }
            }
        }

        factor = 0x8b51f9dd;
        var halves = new uint[8];
        for (var i = 0; i < halves.Length; i++)
        {
            halves[i] = Spread(pool[i % pool.Length], ref factor, 0x58f38ded);
        }

        return [.. Enumerable.Range(0, 4).Select(i => ((ulong)halves[(2 * i) + 1] << 32) | halves[2 * i])];
    }

    private static uint Spread(uint value, ref uint factor, uint step)
    {
        unchecked
        {
            value ^= factor;
            factor *= step;
            value *= factor;
            return value ^ (value >> 16);
        }
    }
}
