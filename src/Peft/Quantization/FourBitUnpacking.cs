using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using System.Runtime.Intrinsics;
using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Peft.Quantization;

/// <summary>
/// The values of four-bit blocks. A block has sixteen of them: they are scaled and rounded once, and each code looks its own up, many at a time, in the type
/// that is asked for.
/// </summary>
internal static unsafe class FourBitUnpacking
{
    private const int Entries = 16;
    private const long GrainElements = 1 << 15;

    // From here on a target surely doesn't stay in the cache until it is read.
    private const long FarElements = 1 << 25;

    /// <summary>As <see cref="FourBitBlocks.Dequantize"/>.</summary>
    public static void Run(Tensor packed, Tensor scales, FourBitType type, int blockSize, Tensor target, ScalarType stored)
    {
        fixed (float* table = type.Values)
        {
            var work = new Work
            {
                Target = TensorMemory.Pointer(target), Type = target.dtype, Stored = stored, Packed = TensorMemory.Pointer(packed),
                Scales = (float*)TensorMemory.Pointer(scales), Table = table, BlockSize = blockSize, Count = target.NumberOfElements,
            };
            RowParallel.Run((work.Count + blockSize - 1) / blockSize, Math.Max(1, GrainElements / blockSize), &Range, &work);
        }

        GC.KeepAlive(packed);
        GC.KeepAlive(scales);
        GC.KeepAlive(target);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Range(void* state, long from, long to)
    {
        var work = (Work*)state;
        if (Avx512BW.IsSupported && work->Type == ScalarType.BFloat16 && work->Stored != ScalarType.Float16 && work->BlockSize % 32 == 0)
        {
            from = WholeBlocks(work, from, Math.Min(to, work->Count / work->BlockSize));
        }

        var values = stackalloc float[Entries];

        // Twice the same sixteen: a look-up takes five bits of an index.
        var halves = stackalloc ushort[2 * Entries];
        for (var block = from; block < to; block++)
        {
            var start = block * work->BlockSize;
            var count = (int)Math.Min(work->BlockSize, work->Count - start);
            Scale(work, work->Scales[block], values);
            if (work->Type == ScalarType.Float32)
            {
                Look(work->Packed + (start / 2), values, (float*)work->Target + start, count);
                continue;
            }

            if (work->Type == ScalarType.BFloat16)
            {
                CpuRows.Narrow(values, halves, Entries);
            }
            else
            {
                TensorPrimitives.ConvertToHalf(new ReadOnlySpan<float>(values, Entries), new Span<Half>(halves, Entries));
            }

            new ReadOnlySpan<ushort>(halves, Entries).CopyTo(new Span<ushort>(halves + Entries, Entries));
            Look(work->Packed + (start / 2), halves, (ushort*)work->Target + start, count);
        }
    }

    /// <summary>
    /// Blocks that are full, to bfloat16, all in registers. What is larger than a processor's cache goes past it to the memory, which needn't be read first.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long WholeBlocks(Work* work, long from, long to)
    {
        var (table, half, one) = (Vector512.Load(work->Table), Vector512.Create(0x7FFFu), Vector512.Create(1u));
        var isFar = work->Count >= FarElements && (nuint)work->Target % 64 == 0;
        for (var block = from; block < to; block++)
        {
            var start = block * work->BlockSize;
            var bits = (table * Vector512.Create(work->Scales[block])).AsUInt32();
            var rounded = Avx512F.ConvertToVector256UInt16(Vector512.ShiftRightLogical(bits + half + (Vector512.ShiftRightLogical(bits, 16) & one), 16));
            var entries = Vector512.Create(rounded, rounded);
            var packed = work->Packed + (start / 2);
            var target = (ushort*)work->Target + start;
            for (var i = 0; i < work->BlockSize; i += 32)
            {
                var values = Avx512BW.PermuteVar32x16(entries, Pairs(packed + (i / 2)));
                if (isFar)
                {
                    values.StoreAlignedNonTemporal(target + i);
                }
                else
                {
                    values.Store(target + i);
                }
            }
        }

        return Math.Max(from, to);
    }

    /// <summary>The sixteen values of a block, rounded to the type that the weight had.</summary>
    private static void Scale(Work* work, float scale, float* values)
    {
        TensorPrimitives.Multiply(new ReadOnlySpan<float>(work->Table, Entries), scale, new Span<float>(values, Entries));
        if (work->Stored == ScalarType.BFloat16 && work->Type != ScalarType.BFloat16)
        {
            var rounded = stackalloc ushort[Entries];
            CpuRows.Narrow(values, rounded, Entries);
            CpuRows.Widen(rounded, values, Entries);
        }
        else if (work->Stored == ScalarType.Float16 && work->Type != ScalarType.Float16)
        {
            for (var i = 0; i < Entries; i++)
            {
                values[i] = (float)(Half)values[i];
            }
        }
    }

    private static void Look(byte* packed, float* values, float* to, int count)
    {
        var i = 0;
        if (Avx512F.IsSupported)
        {
            var entries = Vector512.Load(values);
            for (; i <= count - 16; i += 16)
            {
                Avx512F.PermuteVar16x32(entries, Avx512F.ConvertToVector512Int32(Codes(packed + (i / 2)))).Store(to + i);
            }
        }
        else if (Avx2.IsSupported)
        {
            var (lower, upper) = (Vector256.Load(values), Vector256.Load(values + 8));
            for (; i <= count - 16; i += 16)
            {
                var codes = Codes(packed + (i / 2));
                Look(lower, upper, Avx2.ConvertToVector256Int32(codes)).Store(to + i);
                Look(lower, upper, Avx2.ConvertToVector256Int32(Sse2.ShiftRightLogical128BitLane(codes, 8))).Store(to + i + 8);
            }
        }

        for (; i < count; i++)
        {
            to[i] = values[Code(packed, i)];
        }
    }

    private static void Look(byte* packed, ushort* values, ushort* to, int count)
    {
        var i = 0;
        if (Avx512BW.IsSupported)
        {
            var entries = Vector512.Load(values);
            for (; i <= count - 32; i += 32)
            {
                Avx512BW.PermuteVar32x16(entries, Pairs(packed + (i / 2))).Store(to + i);
            }
        }
        else if (Ssse3.IsSupported)
        {
            var (low, high) = Bytes(values);
            for (; i <= count - 16; i += 16)
            {
                var codes = Codes(packed + (i / 2));
                var (first, second) = (Ssse3.Shuffle(low, codes), Ssse3.Shuffle(high, codes));
                Sse2.UnpackLow(first, second).AsUInt16().Store(to + i);
                Sse2.UnpackHigh(first, second).AsUInt16().Store(to + i + 8);
            }
        }

        for (; i < count; i++)
        {
            to[i] = values[Code(packed, i)];
        }
    }

    /// <summary>The lower and the upper bytes of sixteen values.</summary>
    private static (Vector128<byte> Low, Vector128<byte> High) Bytes(ushort* values)
    {
        var bytes = stackalloc byte[2 * Entries];
        for (var i = 0; i < Entries; i++)
        {
            (bytes[i], bytes[Entries + i]) = ((byte)values[i], (byte)(values[i] >> 8));
        }

        return (Vector128.Load(bytes), Vector128.Load(bytes + Entries));
    }

    private static int Code(byte* packed, int index) => index % 2 == 0 ? packed[index / 2] >> 4 : packed[index / 2] & 15;

    /// <summary>Thirty-two codes of sixteen bytes: each byte in 32 bits, its upper half in the lower 16, itself in the upper 16, of which the lowest bits count.</summary>
    private static Vector512<ushort> Pairs(byte* packed)
    {
        var bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(packed));
        return (Vector512.ShiftRightLogical(bytes, 4) | Vector512.ShiftLeft(bytes, 16)).AsUInt16();
    }

    /// <summary>Sixteen codes, a byte each, of eight bytes.</summary>
    private static Vector128<byte> Codes(byte* packed)
    {
        var wide = Vector128.WidenLower(Vector128.CreateScalar(*(ulong*)packed).AsByte());
        return (Vector128.ShiftRightLogical(wide, 4) | Vector128.ShiftLeft(wide & Vector128.Create((ushort)15), 8)).AsByte();
    }

    private static Vector256<float> Look(Vector256<float> lower, Vector256<float> upper, Vector256<int> codes) => Vector256.ConditionalSelect(
        Vector256.GreaterThan(codes, Vector256.Create(7)).AsSingle(), Avx2.PermuteVar8x32(upper, codes), Avx2.PermuteVar8x32(lower, codes));

    private struct Work
    {
        public byte* Target;
        public ScalarType Type;
        public ScalarType Stored;
        public byte* Packed;
        public float* Scales;
        public float* Table;
        public int BlockSize;
        public long Count;
    }
}
