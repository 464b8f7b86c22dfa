using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Peft.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>The layer norm and the gradient of its input, each in one pass over a row in the processor's cache, instead of seven operators.</summary>
internal static unsafe class LayerNormKernel
{
    private const long GrainElements = 1 << 14;

    /// <summary>w · n + b with n = (x − mean(x)) · r and r = 1 / sqrt(variance(x) + ε); sums and products are float32.</summary>
    /// <param name="x">[…, width], one that <see cref="CpuRows"/> serves.</param>
    /// <param name="weight">[width], float32.</param>
    /// <param name="bias">[width], float32, or null.</param>
    /// <param name="epsilon">Added to the variance.</param>
    /// <param name="keepsNormed">Whether n and r are wanted for the backward pass.</param>
    /// <returns>The result and n, of the input's shape and type, and r, float32 [rows].</returns>
    public static (Tensor Result, Tensor? Normed, Tensor? Inverse) Form(Tensor x, Tensor weight, Tensor? bias, double epsilon, bool keepsNormed)
    {
        using var scope = NewDisposeScope();
        var rows = x.NumberOfElements / Math.Max(1, weight.NumberOfElements);
        var (y, normed) = (ShortLived.Empty(x.shape, x.dtype), keepsNormed ? empty_like(x) : null);
        var inverse = keepsNormed ? empty([rows], ScalarType.Float32) : null;
        var work = Work.Of(x, y, weight);
        work.Bias = bias is null ? null : (float*)TensorMemory.Pointer(bias);
        work.Epsilon = epsilon;
        work.KeepsNormed = keepsNormed;
        if (keepsNormed)
        {
            work.Normed = CpuRows.Of(normed!, work.Width);
            work.Inverse = (float*)TensorMemory.Pointer(inverse!);
        }

        RowParallel.Run(rows, work.Grain, &FormRows, &work);
        GC.KeepAlive((x, weight, bias));
        return (y.MoveToOuterDisposeScope(), normed?.MoveToOuterDisposeScope(), inverse?.MoveToOuterDisposeScope());
    }

    /// <summary>The gradient of the input, r (g w − mean(g w) − n mean(g w n)).</summary>
    /// <param name="gradient">Of the result, of n's shape and type.</param>
    /// <param name="normed">n.</param>
    /// <param name="inverse">r.</param>
    /// <param name="weight">[width], float32.</param>
    public static Tensor Gradient(Tensor gradient, Tensor normed, Tensor inverse, Tensor weight)
    {
        var gx = empty_like(normed);
        var work = Work.Of(gradient, gx, weight);
        work.Normed = CpuRows.Of(normed, work.Width);
        work.Inverse = (float*)TensorMemory.Pointer(inverse);
        RowParallel.Run(inverse.NumberOfElements, work.Grain, &GradientRows, &work);
        GC.KeepAlive((gradient, normed, inverse, weight));
        return gx;
    }

    /// <summary>n of one row.</summary>
    /// <returns>r.</returns>
    internal static float Norm(ReadOnlySpan<float> x, Span<float> n, double epsilon)
    {
        TensorPrimitives.Subtract(x, TensorPrimitives.Sum(x) / x.Length, n);
        var inverse = (float)(1 / Math.Sqrt((TensorPrimitives.SumOfSquares<float>(n) / x.Length) + epsilon));
        TensorPrimitives.Multiply(n, inverse, n);
        return inverse;
    }

    private static void FormRows(void* state, long from, long to)
    {
        ref var work = ref *(Work*)state;
        var width = work.Width;
        var scratch = (float*)NativeMemory.Alloc(3 * (nuint)width, sizeof(float));
        var weight = new ReadOnlySpan<float>(work.Weight, width);
        for (var row = from; row < to; row++)
        {
            ReadOnlySpan<float> x = work.Input.Read(row, width, scratch);
            var y = work.Result.Target(row, width, scratch + width);
            var n = work.KeepsNormed ? work.Normed.Target(row, width, scratch + (2 * width)) : y;
            var inverse = Norm(x, n, work.Epsilon);
            TensorPrimitives.Multiply(n, weight, y);
            if (work.Bias is not null)
            {
                TensorPrimitives.Add(y, new ReadOnlySpan<float>(work.Bias, width), y);
            }

            work.Result.Write(row, y);
            if (work.KeepsNormed)
            {
                work.Normed.Write(row, n);
                work.Inverse[row] = inverse;
            }
        }

        NativeMemory.Free(scratch);
    }

    private static void GradientRows(void* state, long from, long to)
    {
        ref var work = ref *(Work*)state;
        var width = work.Width;
        var scratch = (float*)NativeMemory.Alloc(3 * (nuint)width, sizeof(float));
        var weight = new ReadOnlySpan<float>(work.Weight, width);
        for (var row = from; row < to; row++)
        {
            ReadOnlySpan<float> g = work.Input.Read(row, width, scratch);
            ReadOnlySpan<float> n = work.Normed.Read(row, width, scratch + width);
            var gx = work.Result.Target(row, width, scratch + (2 * width));
            TensorPrimitives.Multiply(g, weight, gx);
            var (mean, along) = (TensorPrimitives.Sum<float>(gx) / width, TensorPrimitives.Dot<float>(gx, n) / width);
            TensorPrimitives.MultiplyAdd(n, -along, gx, gx);
            TensorPrimitives.Subtract(gx, mean, gx);
            TensorPrimitives.Multiply(gx, work.Inverse[row], gx);
            work.Result.Write(row, gx);
        }

        NativeMemory.Free(scratch);
    }

    private struct Work
    {
        public CpuRows Input;
        public CpuRows Result;
        public CpuRows Normed;
        public float* Weight;
        public float* Bias;
        public float* Inverse;
        public int Width;
        public double Epsilon;
        public bool KeepsNormed;

        public readonly long Grain => Math.Max(1, GrainElements / Math.Max(1, Width));

        public static Work Of(Tensor input, Tensor result, Tensor weight)
        {
            var width = weight.NumberOfElements;
            return new Work { Input = CpuRows.Of(input, width), Result = CpuRows.Of(result, width), Weight = (float*)TensorMemory.Pointer(weight), Width = (int)width };
        }
    }
}
