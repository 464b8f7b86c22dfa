using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Tensors;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Peft.Quantization;

/// <summary>LLM.int8's product of one row, by integers: the row is quantised but for its outliers, whose products are added in the row's own type.</summary>
internal static unsafe class Int8RowProduct
{
    private const long GrainElements = 1 << 16;

    // Sums of products of codes stay below 2³¹ up to here.
    private const long LargestWidth = 1 << 17;

    /// <summary>Forms the product where the processor, the sizes and the types allow it.</summary>
    /// <param name="codes">[out, in], int8, on the CPU.</param>
    /// <param name="scales">Largest magnitudes of the rows, [out], float32.</param>
    /// <param name="threshold">The magnitude from which on an input is an outlier; 0 for none.</param>
    /// <param name="x">[1, in], float32 or bfloat16.</param>
    /// <param name="y">[1, out], of the same type; written over.</param>
    /// <returns>Whether it did.</returns>
    public static bool TryRun(Tensor codes, Tensor scales, double threshold, Tensor x, Tensor y)
    {
        long width = x.size(1), height = y.size(1);
        if (!Serves(codes, width) || !CpuRows.Serves(x) || !CpuRows.Serves(y) || x.dtype != y.dtype)
        {
            return false;
        }

        var rounded = (short*)NativeMemory.AlignedAlloc((nuint)Math.Max(1, width) * sizeof(short), 64);
        var given = (float*)NativeMemory.Alloc((nuint)Math.Max(1, width), sizeof(float));
        var outliers = (int*)NativeMemory.Alloc((nuint)Math.Max(1, width), sizeof(int));
        var scratch = (float*)NativeMemory.Alloc((nuint)Math.Max(1, width), sizeof(float));
        CpuRows.Of(x, width).Read(0, (int)width, scratch).CopyTo(new Span<float>(given, (int)width));
        var work = new Work
        {
            Codes = (sbyte*)TensorMemory.Pointer(codes), Scales = (float*)TensorMemory.Pointer(scales), Row = rounded, Given = given, Outliers = outliers,
            Result = CpuRows.Of(y, 1), IsBFloat16 = y.dtype == ScalarType.BFloat16, Width = width,
        };
        work.Quantize((float)threshold, new Span<float>(scratch, (int)width));
        RowParallel.Run(height, Math.Max(1, GrainElements / Math.Max(1, width)), &Rows, &work);
        NativeMemory.AlignedFree(rounded);
        NativeMemory.Free(given);
        NativeMemory.Free(outliers);
        NativeMemory.Free(scratch);
        GC.KeepAlive(x);
        GC.KeepAlive(y);
        GC.KeepAlive(codes);
        GC.KeepAlive(scales);
        return true;
    }

    /// <summary>The weights as products of a recorded step read them, where the processor and the sizes allow it.</summary>
    /// <param name="codes">[out, in], int8.</param>
    /// <param name="scales">[out], float32.</param>
    /// <param name="threshold">The magnitude from which on an input is an outlier; 0 for none.</param>
    /// <param name="type">The input's type, float32 or bfloat16.</param>
    public static StepRows? Rows(Tensor codes, Tensor scales, double threshold, ScalarType type) =>
        Serves(codes, codes.size(1)) ? new RowsOfCodes(codes, scales, (float)threshold, type) : null;

    private static bool Serves(Tensor codes, long width) => Avx2.IsSupported && width is > 0 and <= LargestWidth && codes.device_type == TorchSharp.DeviceType.CPU;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Rows(void* state, long from, long to)
    {
        var work = (Work*)state;
        for (var row = from; row < to; row++)
        {
            work->Result.Put(row, Value(work, row));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Value(Work* work, long row)
    {
        var codes = work->Codes + (row * work->Width);
        var value = (float)Dot(codes, work->Row, work->Width) * (work->Scale * work->Scales[row]) * (float)Int8Rows.ProductScale;
        if (work->OutlierCount > 0)
        {
            var factor = work->Scales[row] * (1f / 127f);
            value = work->Rounded(value);
            for (var i = 0; i < work->OutlierCount; i++)
            {
                var column = work->Outliers[i];
                value += work->Given[column] * work->Rounded(codes[column] * factor);
            }
        }

        return value;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static int Dot(sbyte* codes, short* x, long width)
    {
        long i = 0;
        var sum = 0;
        if (Avx512BW.IsSupported)
        {
            var (a, b) = (Vector512<int>.Zero, Vector512<int>.Zero);
            for (; i <= width - 64; i += 64)
            {
                ReadAhead.Of(codes + i);
                a += Avx512BW.MultiplyAddAdjacent(Avx512BW.ConvertToVector512Int16(Vector256.Load(codes + i)), Vector512.Load(x + i));
                b += Avx512BW.MultiplyAddAdjacent(Avx512BW.ConvertToVector512Int16(Vector256.Load(codes + i + 32)), Vector512.Load(x + i + 32));
            }

            sum = Vector512.Sum(a + b);
        }
        else
        {
            var (a, b) = (Vector256<int>.Zero, Vector256<int>.Zero);
            for (; i <= width - 32; i += 32)
            {
                ReadAhead.Of(codes + i);
                a += Avx2.MultiplyAddAdjacent(Avx2.ConvertToVector256Int16(Vector128.Load(codes + i)), Vector256.Load(x + i));
                b += Avx2.MultiplyAddAdjacent(Avx2.ConvertToVector256Int16(Vector128.Load(codes + i + 16)), Vector256.Load(x + i + 16));
            }

            sum = Vector256.Sum(a + b);
        }

        for (; i < width; i++)
        {
            sum += codes[i] * x[i];
        }

        return sum;
    }

    private sealed class RowsOfCodes(Tensor codes, Tensor scales, float threshold, ScalarType type) : StepRows
    {
        private readonly long _width = codes.size(1);
        private readonly Work _work = new()
        {
            Codes = (sbyte*)TensorMemory.Pointer(codes), Scales = (float*)TensorMemory.Pointer(scales), Width = codes.size(1), IsBFloat16 = type == ScalarType.BFloat16,
        };

        public override long Count { get; } = codes.size(0);

        public override long Grain => Math.Max(1, (1 << 14) / _width);

        // The codes, the input and where its outliers are, room for a row, and what all rows share, a row each.
        public override int ScratchFloats => (4 * Room) + 2;

        private int Room => ((int)_width + 15) / 16 * 16;

        public override (nint Start, long Bytes) Memory(long from, long to) => ((nint)(_work.Codes + (from * _width)), (to - from) * _width);

        public override float* Arrange(CpuRows x, long row, float* scratch)
        {
            var work = Of(scratch);
            x.Read(row, (int)_width, work.Given).CopyTo(new Span<float>(work.Given, (int)_width));
            work.Quantize(threshold, new Span<float>(scratch + (3 * Room), (int)_width));
            scratch[4 * Room] = work.Scale;
            scratch[(4 * Room) + 1] = work.OutlierCount;
            return scratch;
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public override void Sum(long from, int count, float* input, float* sums)
        {
            var work = Of(input);
            work.Scale = input[4 * Room];
            work.OutlierCount = (int)input[(4 * Room) + 1];
            for (var row = 0; row < count; row++)
            {
                sums[row] = Value(&work, from + row);
            }
        }

        private Work Of(float* scratch)
        {
            var work = _work;
            work.Row = (short*)scratch;
            work.Given = scratch + Room;
            work.Outliers = (int*)(scratch + (2 * Room));
            return work;
        }
    }

    private struct Work
    {
        public sbyte* Codes;
        public float* Scales;
        public short* Row;
        public float* Given;
        public int* Outliers;
        public CpuRows Result;
        public bool IsBFloat16;
        public long Width;
        public float Scale;
        public int OutlierCount;

        /// <summary>Codes of the row, by way of float16; outliers have none.</summary>
        /// <param name="threshold">The magnitude from which on a value is an outlier; 0 for none.</param>
        /// <param name="scratch">Room for a row.</param>
        public void Quantize(float threshold, Span<float> scratch)
        {
            var halves = MemoryMarshal.Cast<short, Half>(new Span<short>(Row, (int)Width));
            TensorPrimitives.ConvertToHalf(new ReadOnlySpan<float>(Given, (int)Width), halves);
            TensorPrimitives.ConvertToSingle(halves, scratch);
            Scale = Width == 0 ? 0 : MathF.Abs(TensorPrimitives.MaxMagnitude(scratch));
            if (threshold > 0 && Scale >= threshold)
            {
                Scale = 0;
                for (var i = 0; i < scratch.Length; i++)
                {
                    var isOutlier = MathF.Abs(scratch[i]) >= threshold;
                    Outliers[OutlierCount] = i;
                    OutlierCount += isOutlier ? 1 : 0;
                    scratch[i] = isOutlier ? 0 : scratch[i];
                    Scale = MathF.Max(Scale, MathF.Abs(scratch[i]));
                }
            }

            TensorPrimitives.Multiply(scratch, Scale == 0 ? 0 : 1f / Scale * 127f, scratch);
            TensorPrimitives.Round(scratch, scratch);
            for (var i = 0; i < scratch.Length; i++)
            {
                Row[i] = (short)scratch[i];
            }
        }

        /// <summary>A value in the row's type.</summary>
        public readonly float Rounded(float value) => IsBFloat16 ? CpuRows.Widen(CpuRows.Narrow(value)) : value;
    }
}
