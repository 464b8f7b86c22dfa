using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;

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

    /// <summary>Whether the scales of two groups side by side, the first of them even, differ.</summary>
    static virtual bool HasScalesOfSixteen => false;

    /// <summary>Codes of two groups.</summary>
    /// <param name="block">The block.</param>
    /// <param name="pair">Which two.</param>
    static abstract Vector512<short> Codes(byte* block, int pair);
}

/// <summary>What the types share.</summary>
internal static unsafe class BlockBits
{
    // A conversion takes branches; a look-up among all of them, of which a weight's scales are few, takes none.
    private static readonly float* s_halves = AllHalves();

    /// <summary>A half-precision number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Half(byte* at) => s_halves[*(ushort*)at];

    /// <summary>Sixteen signed bytes as integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Integers(sbyte* at) => Avx512F.IsSupported
        ? Avx512F.ConvertToVector512Int32(Vector128.Load(at))
        : Vector512.Create(Avx2.ConvertToVector256Int32(at), Avx2.ConvertToVector256Int32(at + 8));

    /// <summary>Thirty-two bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Widen(byte* at) => Avx512BW.IsSupported
        ? Avx512BW.ConvertToVector512Int16(Vector256.Load(at))
        : Vector512.Create(Avx2.ConvertToVector256Int16(at), Avx2.ConvertToVector256Int16(at + 16));

    /// <summary>Thirty-two signed bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Widen(sbyte* at) => Avx512BW.IsSupported
        ? Avx512BW.ConvertToVector512Int16(Vector256.Load(at))
        : Vector512.Create(Avx2.ConvertToVector256Int16(at), Avx2.ConvertToVector256Int16(at + 16));

    /// <summary>The lower or the upper four bits of thirty-two bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Nibbles(byte* at, bool areUpper) => areUpper ? Vector512.ShiftRightLogical(Widen(at), 4) : Widen(at) & Vector512.Create((short)15);

    /// <summary>The lower four bits of sixteen bytes, then the upper ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Halves(byte* at)
    {
        var bytes = Avx2.ConvertToVector256Int16(at);
        return VectorLanes.Joined(bytes & Vector256.Create((short)15), Vector256.ShiftRightLogical(bytes, 4));
    }

    /// <summary>A bit of a word for each of thirty-two codes, as their fifth.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> FifthBits(byte* at)
    {
        var each = Vector256.Create(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, short.MinValue);
        var bits = VectorLanes.Joined(each, each);
        var all = VectorLanes.Joined(Vector256.Create(*(short*)at), Vector256.Create(*(short*)(at + 2)));
        return Vector512.Equals(all & bits, bits) & Vector512.Create((short)16);
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
    public static Vector512<short> Codes(byte* block, int pair) => BlockBits.Widen((sbyte*)block + 2);
}

internal readonly unsafe struct Q4Zero : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 18;

    public static bool HasOffsets => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), 0);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair) => BlockBits.Halves(block + 2) - Vector512.Create((short)8);
}

/// <summary>Four-bit floats (E2M1) under a power of two: codes are twice their values, the scale half the power.</summary>
internal readonly unsafe struct Mxfp4 : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 17;

    public static bool HasOffsets => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) =>
        (BitConverter.UInt32BitsToSingle(block[0] < 2 ? 0x00200000u << block[0] : (uint)(block[0] - 1) << 23), 0);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair)
    {
        var table = Vector128.Create((sbyte)0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
        var (bytes, nibble) = (Vector128.Load(block + 1), Vector128.Create((byte)15));
        var first = Ssse3.Shuffle(table, (bytes & nibble).AsSByte());
        var second = Ssse3.Shuffle(table, (Vector128.ShiftRightLogical(bytes.AsUInt16(), 4).AsByte() & nibble).AsSByte());
        return VectorLanes.Joined(Avx2.ConvertToVector256Int16(first), Avx2.ConvertToVector256Int16(second));
    }
}

internal readonly unsafe struct Q4One : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 20;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), -BlockBits.Half(block + 2));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair) => BlockBits.Halves(block + 4);
}

internal readonly unsafe struct Q5Zero : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 22;

    public static bool HasOffsets => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), 0);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair) => (BlockBits.Halves(block + 6) | BlockBits.FifthBits(block + 2)) - Vector512.Create((short)16);
}

internal readonly unsafe struct Q5One : IBlockCodes
{
    public static int Groups => 2;

    public static int Bytes => 24;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Offset) Scale(byte* block) => (BlockBits.Half(block), -BlockBits.Half(block + 2));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair) => BlockBits.Halves(block + 8) | BlockBits.FifthBits(block + 4);
}

internal readonly unsafe struct Q4K : IBlockCodes
{
    public static int Groups => 16;

    public static int Bytes => 144;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales, float* offsets) => BlockBits.SixBits(block, scales, offsets);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair) => BlockBits.Nibbles(block + 16 + (pair / 2 * 32), pair % 2 == 1);
}

internal readonly unsafe struct Q5K : IBlockCodes
{
    public static int Groups => 16;

    public static int Bytes => 176;

    public static bool HasOffsets => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales, float* offsets) => BlockBits.SixBits(block, scales, offsets);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair)
    {
        var high = BlockBits.Widen(block + 16);
        high = pair < 4 ? Vector512.ShiftLeft(high, 4 - pair) : Vector512.ShiftRightLogical(high, pair - 4);
        return BlockBits.Nibbles(block + 48 + (pair / 2 * 32), pair % 2 == 1) | (high & Vector512.Create((short)16));
    }
}

internal readonly unsafe struct Q6K : IBlockCodes
{
    public static int Groups => 16;

    public static int Bytes => 210;

    public static bool HasOffsets => false;

    public static bool HasScalesOfSixteen => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales, float* offsets) =>
        (Vector512.ConvertToSingle(BlockBits.Integers((sbyte*)block + 192)) * Vector512.Create(BlockBits.Half(block + 208))).Store(scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<short> Codes(byte* block, int pair)
    {
        var high = BlockBits.Widen(block + 128 + (pair / 4 * 32));
        high = pair % 4 == 3 ? Vector512.ShiftRightLogical(high, 2) : Vector512.ShiftLeft(high, 4 - (2 * (pair % 4)));
        return (BlockBits.Nibbles(block + (pair / 4 * 64) + (pair % 2 * 32), pair / 2 % 2 == 1) | (high & Vector512.Create((short)48))) - Vector512.Create((short)32);
    }
}
