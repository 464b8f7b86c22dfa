using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>The root mean square norm in one pass over each row, instead of six operators.</summary>
internal static unsafe class NormKernel
{
    private const long GrainElements = 1 << 15;

    /// <summary>Whether <see cref="RootMeanSquare"/> serves an input and its weight.</summary>
    public static bool Serves(Tensor x, Tensor weight) => CpuRows.Serves(x) && CpuRows.Serves(weight) && x.dtype == weight.dtype;

    /// <summary>w · x · r with r = 1 / sqrt(mean(x²) + ε); sums and products are float32.</summary>
    /// <param name="x">[…, width].</param>
    /// <param name="weight">[width].</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <returns>The result, of the input's shape, and r, […, 1], both of the input's type.</returns>
    public static (Tensor Result, Tensor Inverse) RootMeanSquare(Tensor x, Tensor weight, double epsilon)
    {
        var shape = x.shape;
        var width = shape[^1];
        var rows = x.NumberOfElements / Math.Max(1, width);
        shape[^1] = 1;
        var (y, inverse) = (ShortLived.Empty(x.shape, x.dtype), empty(shape, x.dtype, x.device));
        var work = new Work
        {
            Input = CpuRows.Of(x, width),
            Weight = CpuRows.Of(weight, width),
            Result = CpuRows.Of(y, width),
            Inverse = CpuRows.Of(inverse, 1),
            Width = (int)width,
            Epsilon = epsilon,
        };
        RowParallel.Run(rows, Math.Max(1, GrainElements / Math.Max(1, width)), &Rows, &work);
        GC.KeepAlive(x);
        GC.KeepAlive(weight);
        return (y, inverse);
    }

    /// <summary>The norm of one row.</summary>
    /// <returns>r.</returns>
    internal static float RootMeanSquareRow(ReadOnlySpan<float> x, ReadOnlySpan<float> weight, Span<float> y, double epsilon)
    {
        var inverse = (float)(1 / Math.Sqrt((TensorPrimitives.SumOfSquares(x) / x.Length) + epsilon));
        TensorPrimitives.Multiply(x, inverse, y);
        TensorPrimitives.Multiply(y, weight, y);
        return inverse;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Rows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var scratch = (float*)NativeMemory.Alloc(3 * (nuint)work->Width, sizeof(float));
        ReadOnlySpan<float> weight = work->Weight.Read(0, work->Width, scratch + (2 * work->Width));
        for (var row = from; row < to; row++)
        {
            var y = work->Result.Target(row, work->Width, scratch + work->Width);
            work->Inverse.Put(row, RootMeanSquareRow(work->Input.Read(row, work->Width, scratch), weight, y, work->Epsilon));
            work->Result.Write(row, y);
        }

        NativeMemory.Free(scratch);
    }

    private struct Work
    {
        public CpuRows Input;
        public CpuRows Weight;
        public CpuRows Result;
        public CpuRows Inverse;
        public int Width;
        public double Epsilon;
    }
}
