using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>
/// The dynamic eight-bit type (Dettmers 2015, 8-Bit Approximations for Parallelism in Deep Learning): the number of leading zeros of a code is its
/// decimal exponent, what is left its fraction. Numbers are quantised by blocks, each scaled by its largest magnitude.
/// </summary>
public sealed unsafe class DynamicMap
{
    private const int Exponents = 7;
    private const int Steps = ushort.MaxValue;
    private const float HalfSteps = Steps / 2f;
    private readonly float[] _values;
    private readonly byte[] _nearest;

    private DynamicMap(bool isSigned)
    {
        List<float> all = [0f, 1f];
        for (var exponent = 0; exponent < Exponents; exponent++)
        {
            var count = 1 << (isSigned ? exponent : exponent + 1);
            var power = (float)Math.Pow(10, exponent - (Exponents - 1));
            for (var i = 0; i < count; i++)
            {
                var mean = (Boundary(i, count) + Boundary(i + 1, count)) / 2f;
                all.Add(power * mean);
                if (isSigned)
                {
                    all.Add(-power * mean);
                }
            }
        }

        _values = [.. all.Order()];
        _nearest = Nearest(_values);
    }

    /// <summary>For numbers of either sign; there is a 1, but the lowest value is -0.993.</summary>
    public static DynamicMap Signed { get; } = new(isSigned: true);

    /// <summary>For numbers that are never negative.</summary>
    public static DynamicMap Unsigned { get; } = new(isSigned: false);

    /// <summary>The 256 values by code, ascending.</summary>
    public ReadOnlySpan<float> Values => _values;

    /// <summary>Quantises numbers.</summary>
    /// <param name="source">Any shape and floating-point type.</param>
    /// <param name="blockSize">Numbers of a block; the last may be shorter.</param>
    /// <returns>Codes of the source's shape, uint8, and scales [blocks], float32; on the CPU.</returns>
    public (Tensor Codes, Tensor Scales) Quantize(Tensor source, int blockSize)
    {
        using var scope = NewDisposeScope();
        var plain = FloatMemory.Readable(source);
        var count = plain.NumberOfElements;
        var blocks = (count + blockSize - 1) / blockSize;
        var codes = empty(plain.shape, ScalarType.Byte);
        var scales = empty([blocks], ScalarType.Float32);
        fixed (byte* table = _nearest)
        {
            var work = new Work
            {
                Numbers = FloatMemory.Of(plain), Codes = TensorMemory.Pointer(codes), Scales = (float*)TensorMemory.Pointer(scales),
                Nearest = table, BlockSize = blockSize, Count = count,
            };
            RowParallel.Run(blocks, Math.Max(1, (1 << 14) / blockSize), &QuantizeRange, &work);
        }

        GC.KeepAlive(plain);
        return (codes.MoveToOuterDisposeScope(), scales.MoveToOuterDisposeScope());
    }

    /// <summary>The numbers that codes stand for.</summary>
    /// <param name="codes">uint8, contiguous and on the CPU.</param>
    /// <param name="scales">[blocks], float32.</param>
    /// <param name="blockSize">Numbers of a block.</param>
    /// <returns>float32, of the codes' shape.</returns>
    public Tensor Dequantize(Tensor codes, Tensor scales, int blockSize)
    {
        var target = empty(codes.shape, ScalarType.Float32);
        fixed (float* table = _values)
        {
            var work = new Work
            {
                Numbers = FloatMemory.Of(target), Codes = TensorMemory.Pointer(codes), Scales = (float*)TensorMemory.Pointer(scales),
                Table = table, BlockSize = blockSize, Count = target.NumberOfElements,
            };
            RowParallel.Run((work.Count + blockSize - 1) / blockSize, Math.Max(1, (1 << 15) / blockSize), &DequantizeRange, &work);
        }

        GC.KeepAlive(codes);
        GC.KeepAlive(scales);
        return target;
    }

    private static void QuantizeRange(void* state, long from, long to)
    {
        var work = (Work*)state;
        Span<float> scratch = stackalloc float[work->BlockSize];
        for (var block = from; block < to; block++)
        {
            var start = block * work->BlockSize;
            var count = (int)Math.Min(work->BlockSize, work->Count - start);
            var numbers = work->Numbers.Read(start, scratch[..count]);
            var largest = 0f;
            foreach (var number in numbers)
            {
                largest = MathF.Max(largest, MathF.Abs(number));
            }

            work->Scales[block] = largest;

            // A block of zeros has scale 0, and the lowest code throughout.
            var inverse = 1f / largest;
            for (var i = 0; i < count; i++)
            {
                work->Codes[start + i] = largest == 0 ? (byte)0 : Code(numbers[i] * inverse, work->Nearest);
            }
        }
    }

    /// <summary>The code of a number between -1 and 1, by the number rounded to one of 65536 steps, as bitsandbytes' table has it.</summary>
    private static byte Code(float number, byte* nearest) => nearest[(int)Math.Clamp(((number + 1f) * HalfSteps) + 0.5f, 0f, Steps)];

    /// <summary>The code of the value nearest to each step.</summary>
    private static byte[] Nearest(float[] values)
    {
        var codes = new byte[Steps + 1];
        var code = 0;
        for (var step = 0; step <= Steps; step++)
        {
            var number = (step / HalfSteps) - 1f;
            while (code < values.Length - 1 && values[code + 1] - number < number - values[code])
            {
                code++;
            }

            codes[step] = (byte)code;
        }

        return codes;
    }

    private static void DequantizeRange(void* state, long from, long to)
    {
        var work = (Work*)state;
        Span<float> scratch = stackalloc float[work->BlockSize];
        for (var block = from; block < to; block++)
        {
            var start = block * work->BlockSize;
            var target = work->Numbers.Target(start, scratch[..(int)Math.Min(work->BlockSize, work->Count - start)]);
            for (var i = 0; i < target.Length; i++)
            {
                target[i] = work->Table[work->Codes[start + i]] * work->Scales[block];
            }
        }
    }

    /// <summary>A point of the line from 0.1 to 1 in a number of equal steps, formed from the nearer end.</summary>
    private static float Boundary(int point, int steps)
    {
        var step = (1f - 0.1f) / steps;
        return point < (steps + 1) / 2 ? MathF.FusedMultiplyAdd(step, point, 0.1f) : MathF.FusedMultiplyAdd(-step, steps - point, 1f);
    }

    private struct Work
    {
        public FloatMemory Numbers;
        public byte* Codes;
        public float* Scales;
        public float* Table;
        public byte* Nearest;
        public int BlockSize;
        public long Count;
    }
}
