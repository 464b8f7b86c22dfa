using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>
/// y = W x for one row x. It is bound by reading the weights once, which libraries of matrix products don't reach, least of all in bfloat16:
/// each thread reads its share of the weights in one stream.
/// </summary>
internal static unsafe class RowProduct
{
    // What a thread of its own is worth: some ten microseconds of reading.
    private const long GrainElements = 1 << 16;

    // Sums that are narrowed together.
    private const int RowsAtOnce = 64;

    /// <summary>Whether <see cref="Run"/> serves a product.</summary>
    public static bool Serves(Tensor x, Tensor weight) => Vector256.IsHardwareAccelerated && x.dtype == weight.dtype && CpuRows.Serves(x) && CpuRows.Serves(weight);

    /// <summary>Forms the product.</summary>
    /// <param name="x">[1, in].</param>
    /// <param name="weight">[out, in], of the same type, float32 or bfloat16; sums are float32 in both.</param>
    /// <returns>[1, out], of the same type.</returns>
    public static Tensor Run(Tensor x, Tensor weight)
    {
        long width = weight.size(1), height = weight.size(0);
        var y = empty([1, height], x.dtype, x.device);
        var given = CpuRows.Of(x, width);
        var work = new Work { Weight = CpuRows.Of(weight, width), Result = CpuRows.Of(y, height).Row(0), Width = width };
        var grain = Math.Max(1, GrainElements / Math.Max(1, width));
        var scratch = given.IsBFloat16 ? (float*)NativeMemory.AlignedAlloc((nuint)(width + 1) * sizeof(float), 64) : null;
        work.Input = Input(given, 0, width, scratch);
        RowParallel.Run(height, grain, given.IsBFloat16 ? &BFloat16Rows : &Float32Rows, &work);
        NativeMemory.AlignedFree(scratch);
        GC.KeepAlive(x);
        GC.KeepAlive(weight);
        return y;
    }

    /// <summary>A row of input as <see cref="Dot"/> takes it: itself, or put in order in the scratch memory.</summary>
    internal static float* Input(CpuRows x, long row, long width, float* scratch)
    {
        if (!x.IsBFloat16)
        {
            return (float*)x.Row(row);
        }

        Split((ushort*)x.Row(row), scratch, width);
        return scratch;
    }

    /// <summary>The product of a row of weights and an input.</summary>
    internal static float Dot(CpuRows weight, long row, float* input, long width)
    {
        float sum;
        Dots(weight, row, 1, input, width, &sum);
        return sum;
    }

    /// <summary>
    /// The products of rows of weights, one behind the other, and an input. The loop over rows stands around the kernel itself: where a row is a kilobyte,
    /// calling for each takes a fifth of the time in which it is read.
    /// </summary>
    internal static void Dots(CpuRows weight, long row, long count, float* input, long width, float* sums)
    {
        var start = weight.Row(row);
        if (Vector512.IsHardwareAccelerated)
        {
            if (weight.IsBFloat16)
            {
                HalvesDots512((ushort*)start, input, width, count, sums);
            }
            else
            {
                Dots512((float*)start, input, width, count, sums);
            }
        }
        else if (weight.IsBFloat16)
        {
            HalvesDots256((ushort*)start, input, width, count, sums);
        }
        else
        {
            Dots256((float*)start, input, width, count, sums);
        }
    }

    /// <summary>
    /// The input of a bfloat16 product in the order in which weights come out of a register: of each block of lanes taken as 32 bits the
    /// lower halves first, then the upper ones.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Split(ushort* x, float* to, long width)
    {
        long i = 0;
        if (Vector512.IsHardwareAccelerated)
        {
            var upper = Vector512.Create(0xFFFF0000u);
            for (; i <= width - 32; i += 32)
            {
                var pairs = Vector512.Load(x + i).AsUInt32();
                Vector512.ShiftLeft(pairs, 16).AsSingle().Store(to + i);
                (pairs & upper).AsSingle().Store(to + i + 16);
            }
        }
        else
        {
            var upper = Vector256.Create(0xFFFF0000u);
            for (; i <= width - 16; i += 16)
            {
                var pairs = Vector256.Load(x + i).AsUInt32();
                Vector256.ShiftLeft(pairs, 16).AsSingle().Store(to + i);
                (pairs & upper).AsSingle().Store(to + i + 8);
            }
        }

        for (; i < width; i++)
        {
            to[i] = CpuRows.Widen(x[i]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Float32Rows(void* state, long from, long to)
    {
        var work = (Work*)state;
        Dots(work->Weight, from, to - from, work->Input, work->Width, (float*)work->Result + from);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void BFloat16Rows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var y = (ushort*)work->Result;
        var sums = stackalloc float[RowsAtOnce];
        for (; from < to; from += RowsAtOnce)
        {
            var count = Math.Min(RowsAtOnce, to - from);
            Dots(work->Weight, from, count, work->Input, work->Width, sums);
            CpuRows.Narrow(sums, y + from, (int)count);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots512(float* w, float* x, long width, long count, float* sums)
    {
        for (long row = 0; row < count; row++)
        {
            sums[row] = Dot512(w + (row * width), x, width);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Dot512(float* w, float* x, long width)
    {
        var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
        long i = 0;
        for (; i <= width - 64; i += 64)
        {
            ReadAhead.Of(w + i);
            ReadAhead.Of(w + i + 16);
            ReadAhead.Of(w + i + 32);
            ReadAhead.Of(w + i + 48);
            a = Vector512.FusedMultiplyAdd(Vector512.Load(w + i), Vector512.Load(x + i), a);
            b = Vector512.FusedMultiplyAdd(Vector512.Load(w + i + 16), Vector512.Load(x + i + 16), b);
            c = Vector512.FusedMultiplyAdd(Vector512.Load(w + i + 32), Vector512.Load(x + i + 32), c);
            d = Vector512.FusedMultiplyAdd(Vector512.Load(w + i + 48), Vector512.Load(x + i + 48), d);
        }

        return Vector512.Sum((a + b) + (c + d)) + Rest(w, x, i, width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots256(float* w, float* x, long width, long count, float* sums)
    {
        for (long row = 0; row < count; row++)
        {
            sums[row] = Dot256(w + (row * width), x, width);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Dot256(float* w, float* x, long width)
    {
        var (a, b, c, d) = (Vector256<float>.Zero, Vector256<float>.Zero, Vector256<float>.Zero, Vector256<float>.Zero);
        long i = 0;
        for (; i <= width - 32; i += 32)
        {
            ReadAhead.Of(w + i);
            ReadAhead.Of(w + i + 16);
            a = Vector256.FusedMultiplyAdd(Vector256.Load(w + i), Vector256.Load(x + i), a);
            b = Vector256.FusedMultiplyAdd(Vector256.Load(w + i + 8), Vector256.Load(x + i + 8), b);
            c = Vector256.FusedMultiplyAdd(Vector256.Load(w + i + 16), Vector256.Load(x + i + 16), c);
            d = Vector256.FusedMultiplyAdd(Vector256.Load(w + i + 24), Vector256.Load(x + i + 24), d);
        }

        return Vector256.Sum((a + b) + (c + d)) + Rest(w, x, i, width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void HalvesDots512(ushort* w, float* x, long width, long count, float* sums)
    {
        for (long row = 0; row < count; row++)
        {
            sums[row] = HalvesDot512(w + (row * width), x, width);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float HalvesDot512(ushort* w, float* x, long width)
    {
        var upper = Vector512.Create(0xFFFF0000u);
        var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
        long i = 0;
        for (; i <= width - 64; i += 64)
        {
            ReadAhead.Of(w + i);
            ReadAhead.Of(w + i + 32);
            var first = Vector512.Load(w + i).AsUInt32();
            var second = Vector512.Load(w + i + 32).AsUInt32();
            a = Vector512.FusedMultiplyAdd(Vector512.ShiftLeft(first, 16).AsSingle(), Vector512.Load(x + i), a);
            b = Vector512.FusedMultiplyAdd((first & upper).AsSingle(), Vector512.Load(x + i + 16), b);
            c = Vector512.FusedMultiplyAdd(Vector512.ShiftLeft(second, 16).AsSingle(), Vector512.Load(x + i + 32), c);
            d = Vector512.FusedMultiplyAdd((second & upper).AsSingle(), Vector512.Load(x + i + 48), d);
        }

        for (; i <= width - 32; i += 32)
        {
            var first = Vector512.Load(w + i).AsUInt32();
            a = Vector512.FusedMultiplyAdd(Vector512.ShiftLeft(first, 16).AsSingle(), Vector512.Load(x + i), a);
            b = Vector512.FusedMultiplyAdd((first & upper).AsSingle(), Vector512.Load(x + i + 16), b);
        }

        return Vector512.Sum((a + b) + (c + d)) + Rest(w, x, i, width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void HalvesDots256(ushort* w, float* x, long width, long count, float* sums)
    {
        for (long row = 0; row < count; row++)
        {
            sums[row] = HalvesDot256(w + (row * width), x, width);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float HalvesDot256(ushort* w, float* x, long width)
    {
        var upper = Vector256.Create(0xFFFF0000u);
        var (a, b, c, d) = (Vector256<float>.Zero, Vector256<float>.Zero, Vector256<float>.Zero, Vector256<float>.Zero);
        long i = 0;
        for (; i <= width - 32; i += 32)
        {
            ReadAhead.Of(w + i);
            var first = Vector256.Load(w + i).AsUInt32();
            var second = Vector256.Load(w + i + 16).AsUInt32();
            a = Vector256.FusedMultiplyAdd(Vector256.ShiftLeft(first, 16).AsSingle(), Vector256.Load(x + i), a);
            b = Vector256.FusedMultiplyAdd((first & upper).AsSingle(), Vector256.Load(x + i + 8), b);
            c = Vector256.FusedMultiplyAdd(Vector256.ShiftLeft(second, 16).AsSingle(), Vector256.Load(x + i + 16), c);
            d = Vector256.FusedMultiplyAdd((second & upper).AsSingle(), Vector256.Load(x + i + 24), d);
        }

        for (; i <= width - 16; i += 16)
        {
            var first = Vector256.Load(w + i).AsUInt32();
            a = Vector256.FusedMultiplyAdd(Vector256.ShiftLeft(first, 16).AsSingle(), Vector256.Load(x + i), a);
            b = Vector256.FusedMultiplyAdd((first & upper).AsSingle(), Vector256.Load(x + i + 8), b);
        }

        return Vector256.Sum((a + b) + (c + d)) + Rest(w, x, i, width);
    }

    private static float Rest(float* w, float* x, long from, long width)
    {
        var sum = 0f;
        for (var i = from; i < width; i++)
        {
            sum += w[i] * x[i];
        }

        return sum;
    }

    private static float Rest(ushort* w, float* x, long from, long width)
    {
        var sum = 0f;
        for (var i = from; i < width; i++)
        {
            sum += CpuRows.Widen(w[i]) * x[i];
        }

        return sum;
    }

    private struct Work
    {
        public CpuRows Weight;
        public byte* Result;
        public float* Input;
        public long Width;
    }
}
