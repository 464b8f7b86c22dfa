namespace Peft.Adapters.Methods;

/// <summary>MT19937 (Matsumoto and Nishimura 1998), seeded by one number: what NumPy's <c>RandomState(seed)</c> draws, on which scikit-learn builds.</summary>
internal sealed class MersenneTwister
{
    private const int Size = 624;
    private const int Middle = 397;

    private readonly uint[] _state = new uint[Size];
    private int _next = Size;

    /// <summary>Seeds it.</summary>
    public MersenneTwister(uint seed)
    {
        _state[0] = seed;
        for (var i = 1; i < Size; i++)
        {
            _state[i] = unchecked((1812433253u * (_state[i - 1] ^ (_state[i - 1] >> 30))) + (uint)i);
        }
    }

    /// <summary>A number from 0 to below 1, of 53 random bits.</summary>
    public double NextDouble()
    {
        var upper = Next() >> 5;
        var lower = Next() >> 6;
        return ((upper * 67108864.0) + lower) / 9007199254740992.0;
    }

    /// <summary>Different numbers below a bound, all as likely (<c>choice(total, count, replace=False, p=…)</c> with weights of float32).</summary>
    public int[] Choose(int total, int count)
    {
        var weights = new double[total];
        Array.Fill(weights, 1f / total);
        List<int> chosen = [];
        while (chosen.Count < count)
        {
            var places = new double[count - chosen.Count];
            for (var i = 0; i < places.Length; i++)
            {
                places[i] = NextDouble();
            }

            chosen.ForEach(taken => weights[taken] = 0);
            var sums = new double[total];
            var sum = 0.0;
            for (var i = 0; i < total; i++)
            {
                sums[i] = sum += weights[i];
            }

            chosen.AddRange(places.Select(place => Array.FindIndex(sums, reached => reached / sum > place)).Distinct());
        }

        return [.. chosen];
    }

    private uint Next()
    {
        if (_next == Size)
        {
            for (var i = 0; i < Size; i++)
            {
                var mixed = (_state[i] & 0x80000000u) | (_state[(i + 1) % Size] & 0x7fffffffu);
                _state[i] = _state[(i + Middle) % Size] ^ (mixed >> 1) ^ ((mixed & 1) == 0 ? 0 : 0x9908b0dfu);
            }

            _next = 0;
        }

        var bits = _state[_next++];
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9d2c5680u;
        bits ^= (bits << 15) & 0xefc60000u;
        return bits ^ (bits >> 18);
    }
}
