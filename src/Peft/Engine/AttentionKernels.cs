using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Peft.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>
/// The element-wise part of attention, row by row in the processor's first cache, on every engine alike. By operators it is seven passes over
/// all scores, which took three quarters of attention's time.
/// </summary>
internal static unsafe class AttentionKernels
{
    // A row of scores is a microsecond or less: too little for a thread of its own.
    private const long GrainElements = 1 << 14;

    /// <summary>Softmax over the last dimension, in place where it can be.</summary>
    /// <param name="scores">[batches, heads · queries, keys], of which the caller has no more use.</param>
    /// <param name="mask">
    /// True where a query may not see one of the last keys: bool, [queries, masked keys] or [rows, 1, 1, queries, masked keys]; null where
    /// all see all. A query that sees nothing weighs all keys alike.
    /// </param>
    /// <param name="queries">Queries a head.</param>
    /// <param name="rows">Rows of the pass, a divisor of batches.</param>
    public static Tensor Softmax(Tensor scores, Tensor? mask, long queries, long rows)
    {
        if (!CpuRows.Serves(scores))
        {
            return SoftmaxByOperators(scores, mask, queries, rows);
        }

        var keys = scores.size(-1);
        var flat = mask?.contiguous();
        var work = new SoftmaxWork
        {
            Scores = CpuRows.Of(scores, keys),
            Keys = (int)keys,
            Queries = queries,
            Mask = flat is null ? null : (bool*)TensorMemory.Pointer(flat),
            MaskedKeys = flat is null ? 0 : (int)flat.size(-1),
            RowsOfMask = flat is null || flat.NumberOfElements == queries * flat.size(-1) ? long.MaxValue : scores.size(0) * scores.size(1) / rows,
        };
        RowParallel.Run(scores.size(0) * scores.size(1), Math.Max(1, GrainElements / keys), &Softmax, &work);
        GC.KeepAlive(flat);
        return scores;
    }

    /// <summary>The gradient of scores from that of their softmax, w · (g − Σ w g), in place where it can be.</summary>
    /// <param name="weights">The softmax, [batches, rows, keys].</param>
    /// <param name="gradient">Gradient of it, of which the caller has no more use.</param>
    public static Tensor SoftmaxGradient(Tensor weights, Tensor gradient)
    {
        if (!CpuRows.Serves(weights) || !CpuRows.Serves(gradient) || weights.dtype != gradient.dtype)
        {
            return gradient.sub_(weights.mul(gradient).sum(-1, keepdim: true)).mul_(weights);
        }

        var keys = weights.size(-1);
        var work = new GradientWork { Weights = CpuRows.Of(weights, keys), Gradient = CpuRows.Of(gradient, keys), Keys = (int)keys };
        RowParallel.Run(weights.size(0) * weights.size(1), Math.Max(1, GrainElements / keys), &SoftmaxGradient, &work);
        GC.KeepAlive(weights);
        return gradient;
    }

    /// <summary>The same by the engine's operators, for other types and devices.</summary>
    internal static Tensor SoftmaxByOperators(Tensor scores, Tensor? mask, long queries, long rows)
    {
        if (mask is not null)
        {
            // Finite, so that a query that sees nothing (padding on the left) gives numbers.
            var hidden = scores.dtype switch
            {
                ScalarType.Float16 => -16000,
                ScalarType.Float64 => -1e300,
                _ => -1e38,
            };
            var masked = mask.size(-1);
            scores.view(rows, scores.size(0) / rows, scores.size(1) / queries, queries, scores.size(2)).narrow(4, scores.size(2) - masked, masked).masked_fill_(mask, hidden);
        }

        return scores.softmax(-1);
    }

    /// <summary>Softmax of one row in place; where all are hidden, all weigh alike.</summary>
    internal static void Softmax(Span<float> scores)
    {
        var largest = TensorPrimitives.Max((ReadOnlySpan<float>)scores);
        if (float.IsNegativeInfinity(largest))
        {
            scores.Fill(1f / scores.Length);
            return;
        }

        TensorPrimitives.Subtract(scores, largest, scores);
        TensorPrimitives.Exp(scores, scores);
        TensorPrimitives.Multiply(scores, 1 / TensorPrimitives.Sum((ReadOnlySpan<float>)scores), scores);
    }

    /// <summary>Hides scores where the mask says so. Masks are long runs of one value: eight at a time where none is hidden.</summary>
    internal static void Hide(Span<float> scores, ReadOnlySpan<bool> mask)
    {
        var i = 0;
        var eights = MemoryMarshal.Cast<bool, ulong>(mask);
        for (var eight = 0; eight < eights.Length; eight++, i += 8)
        {
            if (eights[eight] == 0)
            {
                continue;
            }

            if (eights[eight] == 0x0101010101010101)
            {
                scores.Slice(i, 8).Fill(float.NegativeInfinity);
                continue;
            }

            HideEach(scores.Slice(i, 8), mask.Slice(i, 8));
        }

        HideEach(scores[i..], mask[i..]);
    }

    private static void Softmax(void* state, long from, long to)
    {
        var work = (SoftmaxWork*)state;
        var scratch = (float*)NativeMemory.Alloc((nuint)work->Keys, sizeof(float));
        for (var row = from; row < to; row++)
        {
            var scores = work->Scores.Read(row, work->Keys, scratch);
            if (work->Mask is not null)
            {
                var mask = work->Mask + ((((row / work->RowsOfMask) * work->Queries) + (row % work->Queries)) * work->MaskedKeys);
                Hide(scores[^work->MaskedKeys..], new ReadOnlySpan<bool>(mask, work->MaskedKeys));
            }

            Softmax(scores);
            work->Scores.Write(row, scores);
        }

        NativeMemory.Free(scratch);
    }

    private static void SoftmaxGradient(void* state, long from, long to)
    {
        var work = (GradientWork*)state;
        var scratch = (float*)NativeMemory.Alloc(2 * (nuint)work->Keys, sizeof(float));
        for (var row = from; row < to; row++)
        {
            var weights = work->Weights.Read(row, work->Keys, scratch);
            var gradient = work->Gradient.Read(row, work->Keys, scratch + work->Keys);
            var mean = TensorPrimitives.Dot(weights, (ReadOnlySpan<float>)gradient);
            TensorPrimitives.Subtract(gradient, mean, gradient);
            TensorPrimitives.Multiply(gradient, weights, gradient);
            work->Gradient.Write(row, gradient);
        }

        NativeMemory.Free(scratch);
    }

    private static void HideEach(Span<float> scores, ReadOnlySpan<bool> mask)
    {
        for (var i = 0; i < scores.Length; i++)
        {
            scores[i] = mask[i] ? float.NegativeInfinity : scores[i];
        }
    }

    private struct SoftmaxWork
    {
        public CpuRows Scores;
        public int Keys;
        public long Queries;
        public bool* Mask;
        public int MaskedKeys;
        public long RowsOfMask;
    }

    private struct GradientWork
    {
        public CpuRows Weights;
        public CpuRows Gradient;
        public int Keys;
    }
}
