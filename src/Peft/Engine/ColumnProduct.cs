using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>
/// y = x W for one row x and weights [in, out] (transformers' <c>Conv1D</c>), beside <see cref="RowProduct"/> bound by reading the weights once: each thread
/// reads its share of the rows in one stream and adds them to sums of its own, which stay in its cache; the sums of all threads are added at the end.
/// </summary>
internal static unsafe class ColumnProduct
{
    // What a thread of its own is worth: some ten microseconds of reading.
    private const long GrainElements = 1 << 16;

    // Sums of one half of a register of weights.
    private static int Lanes => Vector512.IsHardwareAccelerated ? Vector512<float>.Count : Vector<float>.Count;

    /// <summary>Whether <see cref="Run"/> serves a product.</summary>
    /// <param name="x">[1, in].</param>
    /// <param name="weight">[out, in] as a view of [in, out].</param>
    public static bool Serves(Tensor x, Tensor weight)
    {
        if (!Vector.IsHardwareAccelerated || x.dtype != weight.dtype || weight.stride(0) != 1 || weight.stride(1) != weight.size(0) || !CpuRows.Serves(x))
        {
            return false;
        }

        using var rows = weight.t();
        return CpuRows.Serves(rows);
    }

    /// <summary>Forms the product.</summary>
    /// <param name="x">[1, in].</param>
    /// <param name="weight">[out, in] as a view of [in, out], of the same type, float32 or bfloat16; sums are float32 in both.</param>
    /// <returns>[1, out], of the same type.</returns>
    public static Tensor Run(Tensor x, Tensor weight)
    {
        long width = weight.size(0), height = weight.size(1);
        using var rows = weight.t();
        var y = empty([1, width], x.dtype, x.device);
        var parts = (int)Math.Clamp(height * width / GrainElements, 1, ComputeThreads.Count);
        var scratch = (float*)NativeMemory.AlignedAlloc((nuint)(Math.Max(height, width) + (parts * width)) * sizeof(float), 64);
        CpuRows.Of(x, height).Read(0, (int)height, scratch).CopyTo(new Span<float>(scratch, (int)height));
        var work = new Work { Weight = CpuRows.Of(rows, width), Input = scratch, Sums = scratch + Math.Max(height, width), Width = width, Height = height, Parts = parts };
        RowParallel.Run(parts, 1, &Shares, &work);
        var sums = new Span<float>(work.Sums, (int)width);
        for (var part = 1; part < parts; part++)
        {
            TensorPrimitives.Add(sums, new ReadOnlySpan<float>(work.Sums + (part * width), (int)width), sums);
        }

        var result = CpuRows.Of(y, width).Row(0);
        if (work.Weight.IsBFloat16)
        {
            CpuRows.Narrow(InOrder(work.Sums, scratch, width), (ushort*)result, (int)width);
        }
        else
        {
            sums.CopyTo(new Span<float>(result, (int)width));
        }

        NativeMemory.AlignedFree(scratch);
        GC.KeepAlive(x);
        GC.KeepAlive(weight);
        return y;
    }

    private static void Shares(void* state, long from, long to)
    {
        var work = (Work*)state;
        for (var part = from; part < to; part++)
        {
            AddRows(work->Weight, work->Input, work->Height * part / work->Parts, work->Height * (part + 1) / work->Parts, work->Sums + (part * work->Width), work->Width);
        }
    }

    /// <summary>The sums over some rows; of bfloat16 weights in the order of <see cref="AddHalves"/>.</summary>
    /// <param name="weight">[in, out].</param>
    /// <param name="input">[in].</param>
    /// <param name="row">The first row.</param>
    /// <param name="end">The row after the last.</param>
    /// <param name="sums">[out], written over.</param>
    /// <param name="width">Columns.</param>
    internal static void AddRows(CpuRows weight, float* input, long row, long end, float* sums, long width)
    {
        new Span<float>(sums, (int)width).Clear();
        for (; row < end; row++)
        {
            if (weight.IsBFloat16)
            {
                AddHalves((ushort*)weight.Row(row), input[row], sums, width);
            }
            else
            {
                Add((float*)weight.Row(row), input[row], sums, width);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Add(float* row, float factor, float* sums, long count)
    {
        long i = 0;
        for (var factors = Vector512.Create(factor); Vector512.IsHardwareAccelerated && i <= count - 16; i += 16)
        {
            Vector512.FusedMultiplyAdd(factors, Vector512.Load(row + i), Vector512.Load(sums + i)).Store(sums + i);
        }

        for (var factors = new Vector<float>(factor); i <= count - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector.Store(Vector.FusedMultiplyAdd(factors, Vector.Load(row + i), Vector.Load(sums + i)), sums + i);
        }

        for (; i < count; i++)
        {
            sums[i] += factor * row[i];
        }
    }

    /// <summary>As <see cref="Add"/>, with the sums of each block of lanes taken as 32 bits in the order in which weights come out of a register: the lower halves, then the upper ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddHalves(ushort* row, float factor, float* sums, long count)
    {
        long i = 0;
        for (var factors = Vector512.Create(factor); Vector512.IsHardwareAccelerated && i <= count - 32; i += 32)
        {
            var pairs = Vector512.Load(row + i).AsUInt32();
            Vector512.FusedMultiplyAdd(factors, Vector512.ShiftLeft(pairs, 16).AsSingle(), Vector512.Load(sums + i)).Store(sums + i);
            Vector512.FusedMultiplyAdd(factors, (pairs & Vector512.Create(0xFFFF0000u)).AsSingle(), Vector512.Load(sums + i + 16)).Store(sums + i + 16);
        }

        for (var factors = new Vector<float>(factor); !Vector512.IsHardwareAccelerated && i <= count - (2 * Lanes); i += 2 * Lanes)
        {
            var pairs = Vector.Load((uint*)(row + i));
            Vector.Store(Vector.FusedMultiplyAdd(factors, Vector.AsVectorSingle(Vector.ShiftLeft(pairs, 16)), Vector.Load(sums + i)), sums + i);
            Vector.Store(Vector.FusedMultiplyAdd(factors, Vector.AsVectorSingle(pairs & new Vector<uint>(0xFFFF0000u)), Vector.Load(sums + i + Lanes)), sums + i + Lanes);
        }

        for (; i < count; i++)
        {
            sums[i] += factor * CpuRows.Widen(row[i]);
        }
    }

    /// <summary>Sums of bfloat16 weights in the order of the columns, in other memory.</summary>
    internal static float* InOrder(float* sums, float* to, long count)
    {
        long i = 0;
        for (; i <= count - (2 * Lanes); i += 2 * Lanes)
        {
            for (var lane = 0; lane < Lanes; lane++)
            {
                to[i + (2 * lane)] = sums[i + lane];
                to[i + (2 * lane) + 1] = sums[i + Lanes + lane];
            }
        }

        new ReadOnlySpan<float>(sums + i, (int)(count - i)).CopyTo(new Span<float>(to + i, (int)(count - i)));
        return to;
    }

    private struct Work
    {
        public CpuRows Weight;
        public float* Input;
        public float* Sums;
        public long Width;
        public long Height;
        public int Parts;
    }
}
