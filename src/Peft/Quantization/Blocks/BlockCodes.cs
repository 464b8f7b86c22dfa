using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Peft.Quantization.Blocks;

/// <summary>How a type of GGUF's blocks holds numbers: each is scale · code − offset, with a scale and an offset for sixteen of them.</summary>
internal unsafe interface IBlockCodes
{
    /// <summary>Numbers of a block, in sixteens.</summary>
    static abstract int Groups { get; }

    /// <summary>Bytes of a block.</summary>
    static abstract int Bytes { get; }

    /// <summary>Whether offsets are anything but zero.</summary>
    static abstract bool HasOffsets { get; }

    /// <summary>Scale and offset of a block of two groups, which share them.</summary>
    /// <param name="block">The block.</param>
    static virtual (float Scale, float Offset) Scale(byte* block) => throw new NotSupportedException();

    /// <summary>Scales and offsets of a block of sixteen groups.</summary>
    /// <param name="block">The block.</param>
    /// <param name="scales">Room for one of each group.</param>
    /// <param name="offsets">Likewise; left alone where there are none.</param>
    static virtual void Scales(byte* block, float* scales, float* offsets) => throw new NotSupportedException();

    /// <summary>Sixteen codes.</summary>
    /// <param name="block">The block.</param>
    /// <param name="group">Which sixteen.</param>
    static abstract Vector512<int> Codes(byte* block, int group);
}

/// <summary>What the types share.</summary>
internal static unsafe class BlockBits
{
    // A conversion takes branches; a look-up among all of them, of which a weight's scales are few, takes none.
    private static readonly float* s_halves = AllHalves();

    /// <summary>A half-precision number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Half(byte* at) => s_halves[*(ushort*)at];

    /// <summary>Sixteen bytes as integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Widen(byte* at) => Avx512F.IsSupported
        ? Avx512F.ConvertToVector512Int32(Vector128.Load(at))
        : Vector512.Create(Avx2.ConvertToVector256Int32(at), Avx2.ConvertToVector256Int32(at + 8));

    /// <summary>Sixteen signed bytes as integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Widen(sbyte* at) => Avx512F.IsSupported
        ? Avx512F.ConvertToVector512Int32(Vector128.Load(at))
        : Vector512.Create(Avx2.ConvertToVector256Int32(at), Avx2.ConvertToVector256Int32(at + 8));

    /// <summary>Four bits of each of sixteen bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Nibbles(byte* at, int shift) => shift == 0 ? Widen(at) & Vector512.Create(15) : Vector512.ShiftRightLogical(Widen(at), shift);

    /// <summary>A bit of a word for each of sixteen codes, as their fifth.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> FifthBits(uint word, int first)
    {
        var lanes = Vector512.Create(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        var whole = Vector512.Create((int)(word >> first));
        var shifted = Avx512F.IsSupported ? Avx512F.ShiftRightLogicalVariable(whole, lanes.AsUInt32())
            : Vector512.Create(Avx2.ShiftRightLogicalVariable(whole.GetLower(), lanes.GetLower().AsUInt32()), Avx2.ShiftRightLogicalVariable(whole.GetUpper(), lanes.GetUpper().AsUInt32()));
        return Vector512.ShiftLeft(shifted & Vector512.Create(1), 4);
    }

    /// <summary>Eight scales and eight minima of six bits each, packed into twelve bytes, times a block's own two; each for two groups of sixteen.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SixBits(byte* block, float* scales, float* offsets)
    {
        var packed = (uint*)(block + 4);
        uint first = packed[0], second = packed[1], third = packed[2];
        ulong low = first & 0x3F3F3F3F, lowMinima = second & 0x3F3F3F3F;
        ulong high = (third & 0x0F0F0F0F) | (((first >> 6) & 0x03030303) << 4), highMinima = ((third >> 4) & 0x0F0F0F0F) | (((second >> 6) & 0x03030303) << 4);
        Twice(low | (high << 32), Half(block)).Store(scales);
        Twice(lowMinima | (highMinima << 32), Half(block + 2)).Store(offsets);
    }

    private static float* AllHalves()
    {
        var all = (float*)NativeMemory.AlignedAlloc((1 << 16) * sizeof(float), 64);
        for (var bits = 0; bits < 1 << 16; bits++)
        {
            all[bits] = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
        }

        return all;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Twice(ulong bytes, float factor)
    {
        var all = Vector128.CreateScalar(bytes).AsByte();
        var pairs = Sse2.UnpackLow(all, all);
        var upper = Sse2.UnpackHigh(pairs.AsInt64(), pairs.AsInt64()).AsByte();
        return Vector512.ConvertToSingle(Vector512.Create(Avx2.ConvertToVector256Int32(pairs), Avx2.ConvertToVector256Int32(upper))) * Vector512.Create(factor);
    }
}

internal readonly unsafe struct Q8Zero : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 34;

    public static bool HasOffsets => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), 0);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) => BlockBits.Widen((sbyte*)block + 2 + (16 * group));
}

internal readonly unsafe struct Q4Zero : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 18;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => BlockBits.Half(block) is var scale ? (scale, 8 * scale) : default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) => BlockBits.Nibbles(block + 2, 4 * group);
}

internal readonly unsafe struct Q4One : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 20;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), -BlockBits.Half(block + 2));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) => BlockBits.Nibbles(block + 4, 4 * group);
}

internal readonly unsafe struct Q5Zero : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 22;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => BlockBits.Half(block) is var scale ? (scale, 16 * scale) : default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) => BlockBits.Nibbles(block + 6, 4 * group) | BlockBits.FifthBits(*(uint*)(block + 2), 16 * group);
}

internal readonly unsafe struct Q5One : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 24;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), -BlockBits.Half(block + 2));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) => BlockBits.Nibbles(block + 8, 4 * group) | BlockBits.FifthBits(*(uint*)(block + 4), 16 * group);
}

internal readonly unsafe struct Q4K : IBlockCodes
{
    public static int Groups => 16;

    public static int Bytes => 144;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales, float* offsets) => BlockBits.SixBits(block, scales, offsets);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) => BlockBits.Nibbles(block + 16 + (group / 4 * 32) + (group % 2 * 16), group / 2 % 2 * 4);
}

internal readonly unsafe struct Q5K : IBlockCodes
{
    public static int Groups => 16;

    public static int Bytes => 176;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales, float* offsets) => BlockBits.SixBits(block, scales, offsets);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group) =>
        BlockBits.Nibbles(block + 48 + (group / 4 * 32) + (group % 2 * 16), group / 2 % 2 * 4)
        | Vector512.ShiftLeft(Vector512.ShiftRightLogical(BlockBits.Widen(block + 16 + (group % 2 * 16)), group / 2) & Vector512.Create(1), 4);
}

internal readonly unsafe struct Q6K : IBlockCodes
{
    public static int Groups => 16;

    public static int Bytes => 210;

    public static bool HasOffsets => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales, float* offsets) =>
        (Vector512.ConvertToSingle(BlockBits.Widen((sbyte*)block + 192)) * Vector512.Create(BlockBits.Half(block + 208))).Store(scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Codes(byte* block, int group)
    {
        var low = BlockBits.Nibbles(block + (group / 8 * 64) + (group % 4 * 16), group / 4 % 2 * 4);
        var high = Vector512.ShiftRightLogical(BlockBits.Widen(block + 128 + (group / 8 * 32) + (group % 2 * 16)), group / 2 % 4 * 2) & Vector512.Create(3);
        return (low | Vector512.ShiftLeft(high, 4)) - Vector512.Create(32);
    }
}
