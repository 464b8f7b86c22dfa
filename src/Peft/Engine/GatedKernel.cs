using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>silu(gate) · up and its gradient, each in one pass over a row that holds gate and up side by side.</summary>
internal static unsafe class GatedKernel
{
    private const long GrainElements = 1 << 14;

    /// <summary>silu(gate) · up.</summary>
    /// <param name="projections">[rows, 2 · width], one that <see cref="CpuRows"/> serves.</param>
    /// <returns>[rows, width].</returns>
    public static Tensor Form(Tensor projections)
    {
        long rows = projections.size(0), width = projections.size(1) / 2;
        var output = ShortLived.Empty([rows, width], projections.dtype);
        var work = new Work { Projections = CpuRows.Of(projections, 2 * width), Other = CpuRows.Of(output, width), Width = (int)width };
        RowParallel.Run(rows, Math.Max(1, GrainElements / Math.Max(1, width)), &FormRows, &work);
        GC.KeepAlive(projections);
        return output;
    }

    /// <summary>Puts the gradients of gate and up in their place.</summary>
    /// <param name="projections">[rows, 2 · width].</param>
    /// <param name="gradient">Gradient of the output, [rows, width], of the same type.</param>
    public static void Gradient(Tensor projections, Tensor gradient)
    {
        var width = projections.size(1) / 2;
        var work = new Work { Projections = CpuRows.Of(projections, 2 * width), Other = CpuRows.Of(gradient, width), Width = (int)width };
        RowParallel.Run(projections.size(0), Math.Max(1, GrainElements / Math.Max(1, width)), &GradientRows, &work);
        GC.KeepAlive(gradient);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FormRows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var width = work->Width;
        var scratch = (float*)NativeMemory.Alloc(3 * (nuint)width, sizeof(float));
        for (var row = from; row < to; row++)
        {
            ReadOnlySpan<float> both = work->Projections.Read(row, 2 * width, scratch);
            var output = work->Other.Target(row, width, scratch + (2 * width));
            TensorPrimitives.Sigmoid(both[..width], output);
            TensorPrimitives.Multiply(output, both[..width], output);
            TensorPrimitives.Multiply(output, both[width..], output);
            work->Other.Write(row, output);
        }

        NativeMemory.Free(scratch);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void GradientRows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var width = work->Width;
        var scratch = (float*)NativeMemory.Alloc(5 * (nuint)width, sizeof(float));
        var sigmoid = new Span<float>(scratch + (3 * width), width);
        var silu = new Span<float>(scratch + (4 * width), width);
        for (var row = from; row < to; row++)
        {
            var both = work->Projections.Read(row, 2 * width, scratch);
            ReadOnlySpan<float> g = work->Other.Read(row, width, scratch + (2 * width));
            var gate = both[..width];
            var up = both[width..];
            TensorPrimitives.Sigmoid(gate, sigmoid);
            TensorPrimitives.Multiply(gate, sigmoid, silu);

            // silu' = σ + silu − silu σ, in the place of σ.
            TensorPrimitives.Multiply(silu, sigmoid, gate);
            TensorPrimitives.Add(sigmoid, silu, sigmoid);
            TensorPrimitives.Subtract(sigmoid, gate, sigmoid);
            TensorPrimitives.Multiply(g, up, gate);
            TensorPrimitives.Multiply(gate, sigmoid, gate);
            TensorPrimitives.Multiply(g, silu, up);
            work->Projections.Write(row, both);
        }

        NativeMemory.Free(scratch);
    }

    private struct Work
    {
        public CpuRows Projections;
        public CpuRows Other;
        public int Width;
    }
}
