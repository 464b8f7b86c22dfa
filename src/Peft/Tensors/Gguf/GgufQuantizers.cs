using System.Buffers.Binary;
using System.Numerics;

namespace Peft.Tensors.Gguf;

/// <summary>
/// Quantises values to GGUF's blocks: the plain types as the format's Python package does, bit for bit, the K types by ggml's search for the
/// scale and minimum that leave the least weighted error.
/// </summary>
internal static class GgufQuantizers
{
    private const int Super = 256;

    /// <summary>Scale and 4-bit numbers around 8.</summary>
    public static void Q4_0(ReadOnlySpan<float> values, Span<byte> block) => PutNibbles(AroundMiddle(values, block, 8), block[2..], null);

    /// <summary>Scale, minimum and 4-bit numbers.</summary>
    public static void Q4_1(ReadOnlySpan<float> values, Span<byte> block) => PutNibbles(AboveMinimum(values, block, 15), block[4..], null);

    /// <summary>As <see cref="Q4_0"/> with a fifth bit for each value.</summary>
    public static void Q5_0(ReadOnlySpan<float> values, Span<byte> block) => PutNibbles(AroundMiddle(values, block, 16), block[6..], block.Slice(2, 4));

    /// <summary>As <see cref="Q4_1"/> with a fifth bit for each value.</summary>
    public static void Q5_1(ReadOnlySpan<float> values, Span<byte> block) => PutNibbles(AboveMinimum(values, block, 31), block[8..], block.Slice(4, 4));

    /// <summary>Scale and signed 8-bit numbers.</summary>
    public static void Q8_0(ReadOnlySpan<float> values, Span<byte> block)
    {
        var scale = Largest(values, signed: false) / 127;
        var inverse = scale == 0 ? 0 : 1 / scale;
        PutHalf(block, 0, scale);
        for (var i = 0; i < values.Length; i++)
        {
            block[2 + i] = (byte)(sbyte)MathF.Round(values[i] * inverse, MidpointRounding.AwayFromZero);
        }
    }

    /// <summary>256 values in eight groups, each with a 6-bit scale and minimum.</summary>
    public static void Q4_K(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, Span<byte> block)
    {
        Span<byte> levels = stackalloc byte[Super];
        GroupsAboveMinimum(values, importance, block, levels, 15, new Search(-1, 20));
        for (var i = 0; i < 128; i++)
        {
            var at = (i / 32 * 64) + (i % 32);
            block[16 + i] = (byte)(levels[at] | (levels[at + 32] << 4));
        }
    }

    /// <summary>As <see cref="Q4_K"/> with a fifth bit for each value.</summary>
    public static void Q5_K(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, Span<byte> block)
    {
        Span<byte> levels = stackalloc byte[Super];
        GroupsAboveMinimum(values, importance, block, levels, 31, new Search(-0.5f, 15));
        block.Slice(16, 32).Clear();
        for (var i = 0; i < Super; i++)
        {
            block[16 + (i % 32)] |= (byte)((levels[i] >> 4) << (i / 32));
        }

        for (var i = 0; i < 128; i++)
        {
            var at = (i / 32 * 64) + (i % 32);
            block[48 + i] = (byte)((levels[at] & 15) | ((levels[at + 32] & 15) << 4));
        }
    }

    /// <summary>256 values in sixteen groups with signed 8-bit scales and 6-bit numbers around 32.</summary>
    public static void Q6_K(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, Span<byte> block)
    {
        const int Groups = 16, Size = 16;
        const float Nothing = 1e-15f;
        block.Clear();
        Span<float> scales = stackalloc float[Groups];
        var greatest = 0f;
        for (var group = 0; group < Groups; group++)
        {
            scales[group] = BestScale(values.Slice(group * Size, Size), Part(importance, group * Size, Size), 32);
            greatest = MathF.Abs(scales[group]) > MathF.Abs(greatest) ? scales[group] : greatest;
        }

        if (MathF.Abs(greatest) < Nothing)
        {
            return;
        }

        var inverse = -128 / greatest;
        var unit = PutHalf(block, 208, 1 / inverse);
        for (var group = 0; group < Groups; group++)
        {
            var stored = Math.Min(127, Nearest(inverse * scales[group]));
            block[192 + group] = (byte)(sbyte)stored;
            var scale = unit * stored;
            for (var i = 0; i < Size; i++)
            {
                var at = (group * Size) + i;
                var level = scale == 0 ? 0 : Math.Clamp(Nearest(values[at] / scale), -32, 31) + 32;
                block[(at / 128 * 64) + (at % 64)] |= (byte)((level & 15) << (4 * (at / 64 % 2)));
                block[128 + (at / 128 * 32) + (at % 32)] |= (byte)((level >> 4) << (2 * (at / 32 % 4)));
            }
        }
    }

    /// <summary>Numbers around the middle, the largest value by amount being the lowest.</summary>
    private static byte[] AroundMiddle(ReadOnlySpan<float> values, Span<byte> block, int middle)
    {
        var scale = Largest(values, signed: true) / -middle;
        double inverse = scale == 0 ? 0 : 1 / scale;
        PutHalf(block, 0, scale);
        var levels = new byte[values.Length];
        for (var i = 0; i < levels.Length; i++)
        {
            // In float64, as a product and a sum in one step would round.
            levels[i] = (byte)Math.Clamp((int)(float)Math.Truncate((values[i] * inverse) + middle + 0.5), 0, (2 * middle) - 1);
        }

        return levels;
    }

    private static byte[] AboveMinimum(ReadOnlySpan<float> values, Span<byte> block, int most)
    {
        float least = values[0], largest = values[0];
        foreach (var value in values)
        {
            (least, largest) = (Math.Min(least, value), Math.Max(largest, value));
        }

        var scale = (largest - least) / most;
        var inverse = scale == 0 ? 0 : 1 / scale;
        PutHalf(block, 0, scale);
        PutHalf(block, 2, least);
        var levels = new byte[values.Length];
        for (var i = 0; i < levels.Length; i++)
        {
            levels[i] = (byte)Math.Clamp((int)(((values[i] - least) * inverse) + 0.5f), 0, most);
        }

        return levels;
    }

    private static void PutNibbles(byte[] levels, Span<byte> to, Span<byte> fifth)
    {
        for (var i = 0; i < 16; i++)
        {
            to[i] = (byte)((levels[i] & 15) | ((levels[16 + i] & 15) << 4));
        }

        if (fifth.Length > 0)
        {
            uint bits = 0;
            for (var i = 0; i < levels.Length; i++)
            {
                bits |= (uint)(levels[i] >> 4) << i;
            }

            BinaryPrimitives.WriteUInt32LittleEndian(fifth, bits);
        }
    }

    private static void GroupsAboveMinimum(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, Span<byte> block, Span<byte> levels, int most, Search search)
    {
        const int Groups = 8, Size = 32, Finest = 63;
        Span<float> scales = stackalloc float[Groups];
        Span<float> minima = stackalloc float[Groups];
        float greatestScale = 0, greatestMinimum = 0;
        for (var group = 0; group < Groups; group++)
        {
            (scales[group], minima[group]) = search.Best(values.Slice(group * Size, Size), Part(importance, group * Size, Size), most);
            (greatestScale, greatestMinimum) = (Math.Max(greatestScale, scales[group]), Math.Max(greatestMinimum, minima[group]));
        }

        var (inverseScale, inverseMinimum) = (greatestScale > 0 ? Finest / greatestScale : 0, greatestMinimum > 0 ? Finest / greatestMinimum : 0);
        var (unit, unitOfMinimum) = (PutHalf(block, 0, greatestScale / Finest), PutHalf(block, 2, greatestMinimum / Finest));
        var packed = block.Slice(4, 12);
        packed.Clear();
        for (var group = 0; group < Groups; group++)
        {
            var scale = Math.Min(Finest, Nearest(inverseScale * scales[group]));
            var minimum = Math.Min(Finest, Nearest(inverseMinimum * minima[group]));
            PutSixBits(packed, group, scale, minimum);
            var step = unit * scale;
            for (var i = 0; step != 0 && i < Size; i++)
            {
                levels[(group * Size) + i] = (byte)Math.Clamp(Nearest((values[(group * Size) + i] + (unitOfMinimum * minimum)) / step), 0, most);
            }
        }
    }

    private static void PutSixBits(Span<byte> packed, int group, int scale, int minimum)
    {
        if (group < 4)
        {
            packed[group] |= (byte)scale;
            packed[group + 4] |= (byte)minimum;
            return;
        }

        packed[group + 4] = (byte)((scale & 15) | ((minimum & 15) << 4));
        packed[group - 4] |= (byte)((scale >> 4) << 6);
        packed[group] |= (byte)((minimum >> 4) << 6);
    }

    private static ReadOnlySpan<float> Part(ReadOnlySpan<float> importance, int from, int count) => importance.IsEmpty ? importance : importance.Slice(from, count);

    /// <summary>The scale of signed numbers that leaves the least error, each value weighing by its square, or by its importance.</summary>
    private static float BestScale(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, int most)
    {
        const float Nothing = 1e-15f;
        const int Tries = 9;
        var largest = Largest(values, signed: true);
        if (MathF.Abs(largest) < Nothing)
        {
            return 0;
        }

        var (scale, best) = (0f, 0f);
        foreach (var attempt in Enumerable.Range(-Tries, (2 * Tries) + 1).OrderBy(static attempt => attempt != 0))
        {
            var inverse = -(most + (0.1f * attempt)) / largest;
            var (product, square) = (0f, 0f);
            for (var i = 0; i < values.Length; i++)
            {
                var value = values[i];
                var level = Math.Clamp(Nearest(inverse * value), -most, most - 1);
                var weight = importance.IsEmpty ? value * value : importance[i];
                product += weight * value * level;
                square += weight * level * level;
            }

            if (square > 0 && (attempt == 0 || product * product > best * square))
            {
                scale = product / square;
                best = scale * product;
            }
        }

        return scale;
    }

    /// <summary>The value that is largest by amount, the first of several.</summary>
    private static float Largest(ReadOnlySpan<float> values, bool signed)
    {
        var largest = 0f;
        foreach (var value in values)
        {
            largest = MathF.Abs(value) > MathF.Abs(largest) ? value : largest;
        }

        return signed ? largest : MathF.Abs(largest);
    }

    private static int Nearest(float value) => (int)MathF.Round(value, MidpointRounding.ToEven);

    /// <summary>Puts a half-precision number and gives it back as it is now.</summary>
    private static float PutHalf(Span<byte> block, int offset, float value)
    {
        var half = (Half)value;
        BinaryPrimitives.WriteHalfLittleEndian(block[offset..], half);
        return (float)half;
    }

    /// <summary>The search for a group's scale and minimum: a number of attempts from a first one on, a tenth of a level apart.</summary>
    private readonly record struct Search(float First, int Attempts)
    {
        /// <summary>Scale and minimum, the latter as what is taken away; each value weighs by its amount and the group's root mean square, and by its importance where that is known.</summary>
        public (float Scale, float Minimum) Best(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, int most)
        {
            const float Step = 0.1f;
            float least = values[0], largest = values[0], squares = 0;
            foreach (var value in values)
            {
                (least, largest, squares) = (Math.Min(least, value), Math.Max(largest, value), squares + (value * value));
            }

            least = Math.Min(least, 0);
            if (largest == least)
            {
                return (0, -least);
            }

            var usual = MathF.Sqrt(squares / values.Length);
            Span<float> weights = stackalloc float[values.Length];
            for (var i = 0; i < values.Length; i++)
            {
                weights[i] = importance.IsEmpty ? usual + MathF.Abs(values[i]) : importance[i] * MathF.Sqrt((usual * usual) + (values[i] * values[i]));
            }

            var (scale, minimum) = ((largest - least) / most, least);
            var error = Error(values, weights, most / (largest - least), (least, most), (scale, minimum));
            for (var attempt = 0; attempt <= Attempts; attempt++)
            {
                var inverse = (First + (Step * attempt) + most) / (largest - least);
                if (Fit(values, weights, inverse, (least, most)) is { } fit && Error(values, weights, inverse, (least, most), fit) is var own && own < error)
                {
                    (error, scale, minimum) = (own, fit.Scale, fit.Minimum);
                }
            }

            return (scale, -minimum);
        }

        /// <summary>The line through levels and values with the least weighted error, not above zero at level zero.</summary>
        private static (float Scale, float Minimum)? Fit(ReadOnlySpan<float> values, ReadOnlySpan<float> each, float inverse, (float Least, int Most) range)
        {
            float weights = 0, x = 0, l = 0, ll = 0, lx = 0;
            for (var i = 0; i < values.Length; i++)
            {
                var (value, weight, level) = (values[i], each[i], Level(values[i], inverse, range));
                weights += weight;
                x += weight * value;
                l += weight * level;
                ll += weight * level * level;
                lx += weight * level * value;
            }

            var determinant = (weights * ll) - (l * l);
            if (determinant <= 0)
            {
                return null;
            }

            var minimum = ((ll * x) - (l * lx)) / determinant;
            return minimum > 0 ? (lx / ll, 0) : (((weights * lx) - (x * l)) / determinant, minimum);
        }

        private static float Error(ReadOnlySpan<float> values, ReadOnlySpan<float> weights, float inverse, (float Least, int Most) range, (float Scale, float Minimum) line)
        {
            var error = 0f;
            for (var i = 0; i < values.Length; i++)
            {
                var difference = (line.Scale * Level(values[i], inverse, range)) + line.Minimum - values[i];
                error += weights[i] * difference * difference;
            }

            return error;
        }

        private static int Level(float value, float inverse, (float Least, int Most) range) => Math.Clamp(Nearest(inverse * (value - range.Least)), 0, range.Most);
    }
}
