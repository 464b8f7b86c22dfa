using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Peft.Tensors.Gguf;

/// <summary>
/// Dequantises the blocks of GGUF's scalar types. Products and sums are formed in float32 in the order in which the reference
/// implementation forms them, so that values agree bit for bit.
/// </summary>
/// <remarks>In the names: <c>d</c> is a block's scale, <c>m</c> its minimum, <c>q</c> the small integers between them.</remarks>
internal static class GgufBlocks
{
    private static readonly sbyte[] s_nonLinear4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    private static readonly sbyte[] s_twiceE2M1 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

    /// <summary>A half-precision number at an offset.</summary>
    public static float Half(ReadOnlySpan<byte> bytes, int offset) => (float)BinaryPrimitives.ReadHalfLittleEndian(bytes[offset..]);

    /// <summary>32 values: scale, sixteen bytes with two 4-bit numbers each around 8.</summary>
    public static void Q4_0(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = Half(block, 0);
        var q = block.Slice(2, 16);
        for (var i = 0; i < 16; i++)
        {
            values[i] = d * ((q[i] & 15) - 8);
            values[16 + i] = d * ((q[i] >> 4) - 8);
        }
    }

    /// <summary>32 values: scale, minimum, sixteen bytes with two 4-bit numbers each.</summary>
    public static void Q4_1(ReadOnlySpan<byte> block, Span<float> values)
    {
        float d = Half(block, 0), m = Half(block, 2);
        var q = block.Slice(4, 16);
        for (var i = 0; i < 16; i++)
        {
            values[i] = (d * (q[i] & 15)) + m;
            values[16 + i] = (d * (q[i] >> 4)) + m;
        }
    }

    /// <summary>32 values: scale, a fifth bit for each, sixteen bytes with two 4-bit numbers each around 16.</summary>
    public static void Q5_0(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = Half(block, 0);
        var high = BinaryPrimitives.ReadUInt32LittleEndian(block[2..]);
        var q = block.Slice(6, 16);
        for (var i = 0; i < 16; i++)
        {
            values[i] = d * (((q[i] & 15) | Bit(high, i, 4)) - 16);
            values[16 + i] = d * (((q[i] >> 4) | Bit(high, 16 + i, 4)) - 16);
        }
    }

    /// <summary>32 values: scale, minimum, a fifth bit for each, sixteen bytes with two 4-bit numbers each.</summary>
    public static void Q5_1(ReadOnlySpan<byte> block, Span<float> values)
    {
        float d = Half(block, 0), m = Half(block, 2);
        var high = BinaryPrimitives.ReadUInt32LittleEndian(block[4..]);
        var q = block.Slice(8, 16);
        for (var i = 0; i < 16; i++)
        {
            values[i] = (d * ((q[i] & 15) | Bit(high, i, 4))) + m;
            values[16 + i] = (d * ((q[i] >> 4) | Bit(high, 16 + i, 4))) + m;
        }
    }

    /// <summary>32 values: scale and 32 signed bytes.</summary>
    public static void Q8_0(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = Half(block, 0);
        var q = MemoryMarshal.Cast<byte, sbyte>(block.Slice(2, 32));
        for (var i = 0; i < 32; i++)
        {
            values[i] = q[i] * d;
        }
    }

    /// <summary>256 values in sixteen groups: 4-bit scales and minima, 2-bit numbers, and a scale for each of both.</summary>
    public static void Q2_K(ReadOnlySpan<byte> block, Span<float> values)
    {
        float d = Half(block, 80), dm = Half(block, 82);
        for (var group = 0; group < 16; group++)
        {
            float scale = d * (block[group] & 15), minimum = dm * (block[group] >> 4);
            for (var i = 0; i < 16; i++)
            {
                var at = (group * 16) + i;
                values[at] = (scale * TwoBits(block.Slice(16, 64), at)) - minimum;
            }
        }
    }

    /// <summary>256 values in sixteen groups: 2-bit numbers with a third bit apart, 6-bit scales packed into twelve bytes.</summary>
    public static void Q3_K(ReadOnlySpan<byte> block, Span<float> values)
    {
        ReadOnlySpan<byte> mask = block[..32], q = block.Slice(32, 64), scales = block.Slice(96, 12);
        var d = Half(block, 108);
        for (var group = 0; group < 16; group++)
        {
            var low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
            var high = (scales[8 + (group % 4)] >> (2 * (group / 4))) & 3;
            var scale = d * ((low | (high << 4)) - 32);
            for (var i = 0; i < 16; i++)
            {
                // The mask counts the other way round: a set bit means that nothing is taken off.
                var at = (group * 16) + i;
                var taken = ((mask[at % 32] >> (at / 32)) & 1) == 0 ? 4 : 0;
                values[at] = scale * (TwoBits(q, at) - taken);
            }
        }
    }

    /// <summary>256 values in eight groups: 4-bit numbers, 6-bit scales and minima packed into twelve bytes.</summary>
    public static void Q4_K(ReadOnlySpan<byte> block, Span<float> values)
    {
        var q = block.Slice(16, 128);
        for (var group = 0; group < 8; group++)
        {
            (var scale, var minimum) = ScaleAndMinimum(block, group);
            var shift = 4 * (group % 2);
            for (var i = 0; i < 32; i++)
            {
                values[(group * 32) + i] = (scale * ((q[(group / 2 * 32) + i] >> shift) & 15)) - minimum;
            }
        }
    }

    /// <summary>As <see cref="Q4_K"/> with a fifth bit for each value.</summary>
    public static void Q5_K(ReadOnlySpan<byte> block, Span<float> values)
    {
        ReadOnlySpan<byte> high = block.Slice(16, 32), q = block.Slice(48, 128);
        for (var group = 0; group < 8; group++)
        {
            (var scale, var minimum) = ScaleAndMinimum(block, group);
            var shift = 4 * (group % 2);
            for (var i = 0; i < 32; i++)
            {
                var number = ((q[(group / 2 * 32) + i] >> shift) & 15) | (((high[i] >> group) & 1) << 4);
                values[(group * 32) + i] = (scale * number) - minimum;
            }
        }
    }

    /// <summary>256 values in sixteen groups: 6-bit numbers around 32, split into four and two bits, and signed 8-bit scales.</summary>
    public static void Q6_K(ReadOnlySpan<byte> block, Span<float> values)
    {
        ReadOnlySpan<byte> low = block[..128], high = block.Slice(128, 64), scales = block.Slice(192, 16);
        var d = Half(block, 208);
        for (var group = 0; group < 16; group++)
        {
            var scale = d * (sbyte)scales[group];
            for (var i = 0; i < 16; i++)
            {
                var at = (group * 16) + i;
                var four = (low[(at / 128 * 64) + (at % 64)] >> (4 * (at / 64 % 2))) & 15;
                var two = (high[(at / 128 * 32) + (at % 32)] >> (2 * (at / 32 % 4))) & 3;
                values[at] = scale * ((four | (two << 4)) - 32);
            }
        }
    }

    /// <summary>32 values: scale and 4-bit numbers into a table that is finer around zero.</summary>
    public static void IQ4_NL(ReadOnlySpan<byte> block, Span<float> values) => FromTable(Half(block, 0), block.Slice(2, 16), s_nonLinear4, values);

    /// <summary>256 values in eight groups of <see cref="IQ4_NL"/> with 6-bit scales.</summary>
    public static void IQ4_XS(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = Half(block, 0);
        int high = BinaryPrimitives.ReadUInt16LittleEndian(block[2..]);
        for (var group = 0; group < 8; group++)
        {
            var low = (block[4 + (group / 2)] >> (4 * (group % 2))) & 15;
            var scale = (low | (((high >> (2 * group)) & 3) << 4)) - 32;
            FromTable(d * scale, block.Slice(8 + (group * 16), 16), s_nonLinear4, values.Slice(group * 32, 32));
        }
    }

    /// <summary>256 values of -1, 0, 1 times a scale, five to a byte in base three, the last sixteen four to a byte.</summary>
    public static void TQ1_0(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = Half(block, 52);
        var at = Ternary(block[..32], 5, d, values);
        at += Ternary(block.Slice(32, 16), 5, d, values[at..]);
        Ternary(block.Slice(48, 4), 4, d, values[at..]);
    }

    /// <summary>256 values of -1, 0, 1 times a scale, two bits each.</summary>
    public static void TQ2_0(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = Half(block, 64);
        for (var i = 0; i < 256; i++)
        {
            values[i] = d * (TwoBits(block[..64], i) - 1);
        }
    }

    /// <summary>32 values of the Microscaling format: a power of two and 4-bit floats (E2M1).</summary>
    public static void MXFP4(ReadOnlySpan<byte> block, Span<float> values)
    {
        // Half the power, since the table holds twice the values.
        uint exponent = block[0];
        var d = BitConverter.UInt32BitsToSingle(exponent < 2 ? 0x00200000u << (int)exponent : (exponent - 1) << 23);
        FromTable(d, block.Slice(1, 16), s_twiceE2M1, values);
    }

    private static int Bit(uint bits, int index, int position) => (int)((bits >> index) & 1) << position;

    /// <summary>Number <paramref name="at"/> of 2-bit numbers that lie four to a byte, 32 bytes apart from each other.</summary>
    private static int TwoBits(ReadOnlySpan<byte> q, int at) => (q[(at / 128 * 32) + (at % 32)] >> (2 * (at / 32 % 4))) & 3;

    private static (float Scale, float Minimum) ScaleAndMinimum(ReadOnlySpan<byte> block, int group)
    {
        var packed = block.Slice(4, 12);
        int scale, minimum;
        if (group < 4)
        {
            scale = packed[group] & 63;
            minimum = packed[4 + group] & 63;
        }
        else
        {
            var i = group - 4;
            scale = (packed[8 + i] & 15) | ((packed[i] >> 2) & 48);
            minimum = (packed[8 + i] >> 4) | ((packed[4 + i] >> 2) & 48);
        }

        return (Half(block, 0) * scale, Half(block, 2) * minimum);
    }

    private static void FromTable(float d, ReadOnlySpan<byte> q, ReadOnlySpan<sbyte> table, Span<float> values)
    {
        for (var i = 0; i < 16; i++)
        {
            values[i] = d * table[q[i] & 15];
            values[16 + i] = d * table[q[i] >> 4];
        }
    }

    private static int Ternary(ReadOnlySpan<byte> q, int digits, float d, Span<float> values)
    {
        byte power = 1;
        for (var digit = 0; digit < digits; digit++)
        {
            for (var i = 0; i < q.Length; i++)
            {
                values[(digit * q.Length) + i] = d * (((byte)(q[i] * power) * 3 >> 8) - 1);
            }

            power *= 3;
        }

        return digits * q.Length;
    }
}
