using System.Buffers.Binary;
using System.Numerics;

namespace Peft.Tensors.Gguf;

/// <summary>Dequantises the blocks of GGUF's vector types, whose values are rows of a code book times a scale and signs.</summary>
internal static class GgufGridBlocks
{
    private const int Super = 256;

    /// <summary>Eight groups of 32: four row numbers of eight bits, four sign patterns and a scale.</summary>
    public static void IQ2_XXS(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = GgufBlocks.Half(block, 0);
        for (var group = 0; group < Super / 32; group++)
        {
            var piece = block.Slice(2 + (8 * group), 8);
            var packed = BinaryPrimitives.ReadUInt32LittleEndian(piece[4..]);
            var scale = d * (0.5f + (packed >> 28)) * 0.25f;
            for (var i = 0; i < 4; i++)
            {
                Row(GgufGrids.Iq2Xxs, piece[i], scale, Signs(packed >> (7 * i)), values.Slice((32 * group) + (8 * i), 8));
            }
        }
    }

    /// <summary>32 rows of eight: nine bits of row number and seven of signs, and 4-bit scales for two rows each.</summary>
    public static void IQ2_XS(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = GgufBlocks.Half(block, 0);
        for (var row = 0; row < Super / 8; row++)
        {
            uint packed = BinaryPrimitives.ReadUInt16LittleEndian(block[(2 + (2 * row))..]);
            var scale = d * (0.5f + FourBits(block[66..], row / 2)) * 0.25f;
            Row(GgufGrids.Iq2Xs, (int)(packed & 511), scale, Signs(packed >> 9), values.Slice(8 * row, 8));
        }
    }

    /// <summary>32 rows of eight: eight bits of row number and two more apart, sign bytes, and 4-bit scales for two rows each.</summary>
    public static void IQ2_S(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = GgufBlocks.Half(block, 0);
        ReadOnlySpan<byte> numbers = block.Slice(2, 32), signs = block.Slice(34, 32), high = block.Slice(66, 8), scales = block.Slice(74, 8);
        for (var row = 0; row < Super / 8; row++)
        {
            var number = numbers[row] | (((high[row / 4] >> (2 * (row % 4))) & 3) << 8);
            var scale = d * (0.5f + FourBits(scales, row / 2)) * 0.25f;
            Row(GgufGrids.Iq2S, number, scale, signs[row], values.Slice(8 * row, 8));
        }
    }

    /// <summary>64 rows of four; eight groups of 32 have four sign patterns and a scale each.</summary>
    public static void IQ3_XXS(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = GgufBlocks.Half(block, 0);
        for (var group = 0; group < Super / 32; group++)
        {
            var packed = BinaryPrimitives.ReadUInt32LittleEndian(block[(66 + (4 * group))..]);
            var scale = d * (0.5f + (packed >> 28)) * 0.5f;
            for (var i = 0; i < 8; i++)
            {
                var signs = Signs(packed >> (7 * (i / 2)));
                Row(GgufGrids.Iq3Xxs, block[2 + (8 * group) + i], scale, signs >> (4 * (i % 2)), values.Slice((32 * group) + (4 * i), 4));
            }
        }
    }

    /// <summary>64 rows of four: eight bits of row number and a ninth apart, sign bytes, and 4-bit scales for eight rows each.</summary>
    public static void IQ3_S(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = GgufBlocks.Half(block, 0);
        ReadOnlySpan<byte> numbers = block.Slice(2, 64), high = block.Slice(66, 8), signs = block.Slice(74, 32), scales = block.Slice(106, 4);
        for (var row = 0; row < Super / 4; row++)
        {
            var number = numbers[row] | (((high[row / 8] >> (row % 8)) & 1) << 8);
            var scale = d * (1 + (2 * FourBits(scales, row / 8)));
            Row(GgufGrids.Iq3S, number, scale, signs[row / 2] >> (4 * (row % 2)), values.Slice(4 * row, 4));
        }
    }

    /// <summary>32 rows of eight: eight bits of row number, three more in a word that also holds a group's scale and shift.</summary>
    public static void IQ1_S(ReadOnlySpan<byte> block, Span<float> values)
    {
        var d = GgufBlocks.Half(block, 0);
        for (var row = 0; row < Super / 8; row++)
        {
            int packed = BinaryPrimitives.ReadUInt16LittleEndian(block[(34 + (2 * (row / 4)))..]);
            var number = block[2 + row] | (((packed >> (3 * (row % 4))) & 7) << 8);
            var scale = d * ((2 * ((packed >> 12) & 7)) + 1);
            ShiftedRow(number, scale, (packed & 0x8000) != 0, values.Slice(8 * row, 8));
        }
    }

    /// <summary>As <see cref="IQ1_S"/> with a shift for each row and a scale for two, the block's own scale spread over four words.</summary>
    public static void IQ1_M(ReadOnlySpan<byte> block, Span<float> values)
    {
        ReadOnlySpan<byte> numbers = block[..32], high = block.Slice(32, 16), words = block.Slice(48, 8);
        var bits = 0;
        for (var i = 0; i < 4; i++)
        {
            bits |= BinaryPrimitives.ReadUInt16LittleEndian(words[(2 * i)..]) >> 12 << (4 * i);
        }

        var d = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
        for (var row = 0; row < Super / 8; row++)
        {
            var extra = high[row / 2] >> (4 * (row % 2));
            int word = BinaryPrimitives.ReadUInt16LittleEndian(words[(2 * (row / 8))..]);
            var scale = d * ((2 * ((word >> (3 * (row / 2 % 4))) & 7)) + 1);
            ShiftedRow(numbers[row] | ((extra & 7) << 8), scale, (extra & 8) != 0, values.Slice(8 * row, 8));
        }
    }

    private static int FourBits(ReadOnlySpan<byte> bytes, int index) => (bytes[index / 2] >> (4 * (index % 2))) & 15;

    /// <summary>Seven stored signs; the eighth makes their number even.</summary>
    private static byte Signs(uint packed)
    {
        var seven = packed & 127;
        return (byte)(seven | ((uint)(BitOperations.PopCount(seven) & 1) << 7));
    }

    private static void Row(float[] grid, int number, float scale, int signs, Span<float> values)
    {
        ReadOnlySpan<float> row = grid.AsSpan(number * values.Length, values.Length);
        for (var i = 0; i < values.Length; i++)
        {
            var value = scale * row[i];
            values[i] = ((signs >> i) & 1) == 0 ? value : -value;
        }
    }

    private static void ShiftedRow(int number, float scale, bool down, Span<float> values)
    {
        const float Shift = 0.125f;
        ReadOnlySpan<float> row = GgufGrids.Iq1S.AsSpan(number * 8, 8);
        for (var i = 0; i < 8; i++)
        {
            values[i] = scale * (row[i] + (down ? -Shift : Shift));
        }
    }
}
