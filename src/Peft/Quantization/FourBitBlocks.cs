using System.Runtime.Intrinsics;
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
    public static void Dequantize(Tensor packed, Tensor scales, FourBitType type, int blockSize, Tensor target, ScalarType stored) =>
        FourBitUnpacking.Run(packed, scales, type, blockSize, target, stored);

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
}
