namespace Peft.Training;

/// <summary>
/// The order in which a training sees its rows, made by a generator of its own from nothing but the seed and the epoch:
/// the position in the data is all that a checkpoint needs to remember.
/// </summary>
internal static class DataOrder
{
    /// <summary>The numbers below <paramref name="count"/> in an order of their own for this seed and stream (Fisher and Yates' shuffle).</summary>
    /// <param name="count">How many.</param>
    /// <param name="seed">The training's seed.</param>
    /// <param name="stream">Epoch, counted from 0; -1 for the evaluation split.</param>
    public static int[] Shuffle(int count, long seed, long stream)
    {
        var order = Enumerable.Range(0, count).ToArray();
        var state = Mix((ulong)seed, (ulong)stream);
        for (var i = count - 1; i > 0; i--)
        {
            // The high half of a 64 by 64 bit product maps the draw to [0, i]; its bias is below 2^-32 for any number of rows.
            var j = (int)Math.BigMul(Next(ref state), (ulong)i + 1, out _);
            (order[i], order[j]) = (order[j], order[i]);
        }

        return order;
    }

    /// <summary>A seed for the dropout masks of one micro batch, so that a resumed training draws what the whole one drew.</summary>
    public static long SeedOf(long seed, int step, int micro)
    {
        var state = Mix((ulong)seed, ((ulong)(uint)step << 32) | (uint)micro);
        return (long)(Next(ref state) >> 1);
    }

    private static ulong Mix(ulong seed, ulong stream)
    {
        var state = seed;
        var mixed = Next(ref state) ^ stream;
        return Next(ref mixed);
    }

    /// <summary>SplitMix64 (Steele, Lea and Flood 2014).</summary>
    private static ulong Next(ref ulong state)
    {
        state += 0x9E3779B97F4A7C15;
        var mixed = state;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
        return mixed ^ (mixed >> 31);
    }
}
