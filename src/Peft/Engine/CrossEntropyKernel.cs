using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Peft.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>
/// Cross-entropy of rows of logits and its gradient, each row once through the processor's cache. By operators it is seven passes over all
/// logits, of which a large vocabulary has more than the rest of the model has activations.
/// </summary>
internal static unsafe class CrossEntropyKernel
{
    /// <summary>Writes the loss of each row and, where it is wanted, puts the gradient of it in the logits' place.</summary>
    /// <param name="logits">[rows, vocabulary], one that <see cref="CpuRows"/> serves. Left as it is where no gradient is wanted.</param>
    /// <param name="targets">int64 [rows], each below the vocabulary.</param>
    /// <param name="losses">float32 [rows].</param>
    /// <param name="scale">Multiplies logits first.</param>
    /// <param name="smoothing">Share of the target that is spread over the whole vocabulary.</param>
    /// <param name="wantsGradient">Whether the gradient is wanted, which is multiplied by <paramref name="scale"/> as well.</param>
    public static void Form(Tensor logits, Tensor targets, Tensor losses, double scale, double smoothing, bool wantsGradient)
    {
        var (own, width) = (targets.contiguous(), logits.size(1));
        var work = new Work
        {
            Logits = CpuRows.Of(logits, width),
            Targets = (long*)TensorMemory.Pointer(own),
            Losses = CpuRows.Of(losses, 1),
            Width = (int)width,
            Scale = (float)scale,
            Smoothing = (float)smoothing,
            WantsGradient = wantsGradient,
        };
        RowParallel.Run(logits.size(0), 1, &FormRows, &work);
        GC.KeepAlive(own);
        GC.KeepAlive(logits);
        GC.KeepAlive(losses);
    }

    private static void FormRows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var width = work->Width;
        var memory = (float*)NativeMemory.Alloc((nuint)width, sizeof(float));
        var scratch = new Span<float>(memory, width);
        for (var row = from; row < to; row++)
        {
            var values = work->Logits.Read(row, width, memory);
            if (work->Scale != 1)
            {
                TensorPrimitives.Multiply(values, work->Scale, work->WantsGradient ? values : scratch);
                values = work->WantsGradient ? values : scratch;
            }

            var target = (int)work->Targets[row];
            var smoothed = work->Smoothing > 0 ? work->Smoothing * (TensorPrimitives.Sum((ReadOnlySpan<float>)values) / width) : 0;
            var wanted = ((1 - work->Smoothing) * values[target]) + smoothed;
            var largest = TensorPrimitives.Max((ReadOnlySpan<float>)values);
            var powers = work->WantsGradient ? values : scratch;
            TensorPrimitives.Subtract(values, largest, powers);
            TensorPrimitives.Exp(powers, powers);
            var sum = TensorPrimitives.Sum((ReadOnlySpan<float>)powers);
            work->Losses.Put(row, MathF.Log(sum) + largest - wanted);
            if (!work->WantsGradient)
            {
                continue;
            }

            TensorPrimitives.Multiply(powers, work->Scale / sum, powers);
            powers[target] -= work->Scale * (1 - work->Smoothing);
            if (work->Smoothing > 0)
            {
                TensorPrimitives.Subtract(powers, work->Scale * work->Smoothing / width, powers);
            }

            work->Logits.Write(row, powers);
        }

        NativeMemory.Free(memory);
    }

    private struct Work
    {
        public CpuRows Logits;
        public long* Targets;
        public CpuRows Losses;
        public int Width;
        public float Scale;
        public float Smoothing;
        public bool WantsGradient;
    }
}
