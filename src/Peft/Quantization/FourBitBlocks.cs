using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Peft.Quantization;

/// <summary>
/// Four-bit numbers by blocks of a flattened weight, each with its largest magnitude as the scale, to the same bytes as bitsandbytes makes:
/// two numbers a byte, the first in the high half. Works on the tensors' own memory, by all threads.
/// </summary>
public static unsafe class FourBitBlocks
{
    // Numbers that are unpacked at a time: their scratch memory stays in the first cache.
    private const int Chunk = 256;
    private const long GrainElements = 1 << 15;

    /// <summary>The block sizes there are.</summary>
    public static IReadOnlyList<int> Sizes { get; } = [32, 64, 128, 256, 512, 1024, 2048, 4096];

    /// <summary>Quantises a weight.</summary>
    /// <param name="weight">Any shape and floating-point type.</param>
    /// <param name="type">NF4 or FP4.</param>
    /// <param name="blockSize">One of <see cref="Sizes"/>.</param>
    /// <returns>Packed numbers [half of the elements, rounded up, 1], uint8, and the scales [blocks], float32; on the CPU.</returns>
    public static (Tensor Packed, Tensor Scales) Quantize(Tensor weight, FourBitType type, int blockSize)
    {
        using var scope = NewDisposeScope();
        var source = FloatMemory.Readable(weight);
        var count = source.NumberOfElements;
        var blocks = (count + blockSize - 1) / blockSize;
        var packed = empty([(count + 1) / 2, 1], ScalarType.Byte);
        var scales = empty([blocks], ScalarType.Float32);
        fixed (float* bounds = type.Bounds)
        {
            fixed (byte* order = type.Order)
            {
                var work = new QuantizeWork
                {
                    Source = FloatMemory.Of(source), Packed = TensorMemory.Pointer(packed), Scales = (float*)TensorMemory.Pointer(scales),
                    Bounds = bounds, Order = order, BlockSize = blockSize, Count = count,
                };
                RowParallel.Run(blocks, Math.Max(1, GrainElements / blockSize), &QuantizeRange, &work);
            }
        }

        GC.KeepAlive(source);
        return (packed.MoveToOuterDisposeScope(), scales.MoveToOuterDisposeScope());
    }

    /// <summary>Unpacks numbers into memory that is there.</summary>
    /// <param name="packed">As <see cref="Quantize"/> makes them.</param>
    /// <param name="scales">[blocks], float32.</param>
    /// <param name="type">NF4 or FP4.</param>
    /// <param name="blockSize">Numbers of a block.</param>
    /// <param name="target">Takes the values: float32, bfloat16 or float16, contiguous.</param>
    /// <param name="stored">The type of the weight before it was quantised, to which values are rounded first.</param>
    public static void Dequantize(Tensor packed, Tensor scales, FourBitType type, int blockSize, Tensor target, ScalarType stored)
    {
        fixed (float* table = type.Values)
        {
            var work = new DequantizeWork
            {
                Target = FloatMemory.Of(target), Stored = stored, Packed = TensorMemory.Pointer(packed), Scales = (float*)TensorMemory.Pointer(scales),
                Table = table, BlockSize = blockSize, Count = target.NumberOfElements,
            };
            RowParallel.Run((work.Count + Chunk - 1) / Chunk, GrainElements / Chunk, &DequantizeRange, &work);
        }

        GC.KeepAlive(packed);
        GC.KeepAlive(scales);
        GC.KeepAlive(target);
    }

    private static void QuantizeRange(void* state, long from, long to)
    {
        var work = (QuantizeWork*)state;
        Span<float> scratch = stackalloc float[work->BlockSize];
        Span<byte> codes = stackalloc byte[work->BlockSize];
        for (var block = from; block < to; block++)
        {
            var start = block * work->BlockSize;
            var count = (int)Math.Min(work->BlockSize, work->Count - start);
            var values = work->Source.Read(start, scratch[..count]);
            var largest = count == 0 ? 0 : MathF.Abs(TensorPrimitives.MaxMagnitude(values));

            // A block that isn't full is divided by its scale, the others are multiplied with its inverse.
            var isFull = count == work->BlockSize;
            var scale = MathF.Max(largest, 1e-38f);
            work->Scales[block] = isFull ? largest : scale;
            if (isFull)
            {
                TensorPrimitives.Multiply(values, 1f / scale, scratch);
            }
            else
            {
                TensorPrimitives.Divide(values, scale, scratch);
            }

            Codes(scratch[..count], work->Bounds, work->Order, codes);
            Pack(codes[..count], work->Packed + (start / 2), work->Order, work->Bounds);
        }
    }

    /// <summary>The code of each value: as many bounds as lie below it, in the order of the type's values.</summary>
    private static void Codes(ReadOnlySpan<float> values, float* bounds, byte* order, Span<byte> codes)
    {
        var i = 0;
        if (Vector256.IsHardwareAccelerated)
        {
            for (; i <= values.Length - 8; i += 8)
            {
                var value = Vector256.Create(values[i..]);
                var above = Vector256<int>.Zero;
                for (var bound = 0; bound < 15; bound++)
                {
                    above -= Vector256.GreaterThan(value, Vector256.Create(bounds[bound])).AsInt32();
                }

                for (var lane = 0; lane < 8; lane++)
                {
                    codes[i + lane] = order[above[lane]];
                }
            }
        }

        for (; i < values.Length; i++)
        {
            codes[i] = Code(values[i], bounds, order);
        }
    }

    private static byte Code(float value, float* bounds, byte* order)
    {
        var above = 0;
        for (var bound = 0; bound < 15; bound++)
        {
            above += value > bounds[bound] ? 1 : 0;
        }

        return order[above];
    }

    private static void Pack(ReadOnlySpan<byte> codes, byte* packed, byte* order, float* bounds)
    {
        for (var i = 0; i < codes.Length; i += 2)
        {
            packed[i / 2] = (byte)((codes[i] << 4) | (i + 1 < codes.Length ? codes[i + 1] : Code(0, bounds, order)));
        }
    }

    private static void DequantizeRange(void* state, long from, long to)
    {
        var work = (DequantizeWork*)state;
        Span<float> scratch = stackalloc float[Chunk];
        for (var chunk = from; chunk < to; chunk++)
        {
            var start = chunk * Chunk;
            var count = (int)Math.Min(Chunk, work->Count - start);
            var values = work->Target.Target(start, scratch[..count]);
            for (var done = 0; done < count; done += work->BlockSize)
            {
                var part = values.Slice(done, Math.Min(work->BlockSize, count - done));
                Unpack(work->Packed + ((start + done) / 2), work->Table, work->Scales[(start + done) / work->BlockSize], part);
            }

            work->Target.Write(start, values, work->Stored);
        }
    }

    private static void Unpack(byte* packed, float* table, float scale, Span<float> to)
    {
        fixed (float* values = to)
        {
            var i = 0;
            if (Avx512F.IsSupported)
            {
                var entries = Vector512.Load(table) * scale;
                for (; i <= to.Length - 16; i += 16)
                {
                    Avx512F.PermuteVar16x32(entries, Avx512F.ConvertToVector512Int32(Halves(packed + (i / 2)))).Store(values + i);
                }
            }
            else if (Avx2.IsSupported)
            {
                var (lower, upper) = (Vector256.Load(table) * scale, Vector256.Load(table + 8) * scale);
                for (; i <= to.Length - 16; i += 16)
                {
                    var halves = Halves(packed + (i / 2));
                    Look(lower, upper, Avx2.ConvertToVector256Int32(halves)).Store(values + i);
                    Look(lower, upper, Avx2.ConvertToVector256Int32(Sse2.ShiftRightLogical128BitLane(halves, 8))).Store(values + i + 8);
                }
            }

            for (; i < to.Length; i++)
            {
                values[i] = table[i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15] * scale;
            }
        }
    }

    /// <summary>Sixteen codes, a byte each, of eight bytes.</summary>
    private static Vector128<byte> Halves(byte* packed)
    {
        var wide = Vector128.WidenLower(Vector128.CreateScalar(*(ulong*)packed).AsByte());
        return (Vector128.ShiftRightLogical(wide, 4) | Vector128.ShiftLeft(wide & Vector128.Create((ushort)15), 8)).AsByte();
    }

    private static Vector256<float> Look(Vector256<float> lower, Vector256<float> upper, Vector256<int> codes) => Vector256.ConditionalSelect(
        Vector256.GreaterThan(codes, Vector256.Create(7)).AsSingle(), Avx2.PermuteVar8x32(upper, codes), Avx2.PermuteVar8x32(lower, codes));

    private struct QuantizeWork
    {
        public FloatMemory Source;
        public byte* Packed;
        public float* Scales;
        public float* Bounds;
        public byte* Order;
        public int BlockSize;
        public long Count;
    }

    private struct DequantizeWork
    {
        public FloatMemory Target;
        public ScalarType Stored;
        public byte* Packed;
        public float* Scales;
        public float* Table;
        public int BlockSize;
        public long Count;
    }
}
