using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Peft.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>
/// Attention of one new position a row over all that a cache holds, in one pass. A token alone is some twenty small operators a layer by
/// the engine, whose starts take longer than their work.
/// </summary>
internal static unsafe class SingleQueryKernel
{
    // Elements of keys that are worth a thread of their own.
    private const long GrainElements = 1 << 14;

    /// <summary>Whether <see cref="Run"/> serves queries, keys and values.</summary>
    public static bool Serves(Tensor queries, Tensor keys, Tensor values) =>
        CpuRows.Serves(queries) && ServesStored(keys, queries) && ServesStored(values, queries);

    /// <summary>softmax(q Kᵀ) V of each row's one query in each head; sums are float32.</summary>
    /// <param name="queries">[rows, 1, heads, head size], scaled.</param>
    /// <param name="keys">[rows · kv heads, keys, head size]; each head serves a group of query heads.</param>
    /// <param name="values">[rows · kv heads, keys, value size].</param>
    /// <param name="seen">The first key that is seen, and how many from there on.</param>
    /// <param name="mask">True where one of the last keys is hidden, [rows or 1, …, masked keys]; null where none is. A query that sees nothing weighs all alike.</param>
    /// <returns>[rows, heads · value size].</returns>
    public static Tensor Run(Tensor queries, Tensor keys, Tensor values, (long First, long Count) seen, Tensor? mask)
    {
        long rows = queries.size(0), heads = queries.size(2), valueSize = values.size(2);
        var output = empty([rows, heads * valueSize], queries.dtype, queries.device);
        var masked = mask?.size(-1) ?? 0;
        using var firstKeys = keys.select(0, 0);
        using var firstValues = values.select(0, 0);
        var work = new Work
        {
            Queries = CpuRows.Of(queries, queries.size(3)),
            Keys = CpuRows.Of(firstKeys, keys.size(2)),
            Values = CpuRows.Of(firstValues, valueSize),
            Output = CpuRows.Of(output, valueSize),
            KeyStride = keys.stride(0) / keys.size(2),
            ValueStride = values.stride(0) / valueSize,
            Group = rows * heads / keys.size(0),
            Heads = heads,
            First = seen.First,
            Count = (int)seen.Count,
            KeySize = (int)keys.size(2),
            ValueSize = (int)valueSize,
            Mask = mask is null ? null : (bool*)TensorMemory.Pointer(mask),
            Masked = (int)masked,
            MaskStride = mask is null || mask.NumberOfElements == masked ? 0 : masked,
        };
        RowParallel.Run(rows * heads, Math.Max(1, GrainElements / (work.Count * (long)work.KeySize)), &Heads, &work);
        GC.KeepAlive(queries);
        GC.KeepAlive(mask);
        return output;
    }

    private static bool ServesStored(Tensor stored, Tensor queries) =>
        stored.dtype == queries.dtype && stored.device_type == queries.device_type && stored.size(1) > 0 && stored.stride(2) == 1 && stored.stride(1) == stored.size(2);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Heads(void* state, long from, long to)
    {
        var work = (Work*)state;
        var scratch = (float*)NativeMemory.AlignedAlloc((nuint)work->ScratchFloats * sizeof(float), 64);
        Attend(work, from, to, scratch);
        NativeMemory.AlignedFree(scratch);
    }

    /// <summary>Attention of some heads.</summary>
    /// <param name="work">The tensors.</param>
    /// <param name="from">The first of all rows' heads.</param>
    /// <param name="to">The head after the last.</param>
    /// <param name="scratch">As many floats as <see cref="Work.ScratchFloats"/> says.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Attend(Work* work, long from, long to, float* scratch)
    {
        var scores = new Span<float>(scratch + work->KeySize + 1, work->Count);
        for (var head = from; head < to; head++)
        {
            var query = RowProduct.Input(work->Queries, head, work->KeySize, scratch);
            var first = ((head / work->Group) * work->KeyStride) + work->First;
            for (var key = 0; key < scores.Length; key++)
            {
                scores[key] = RowProduct.Dot(work->Keys, first + key, query, work->KeySize);
            }

            Weigh(scores, work, head / work->Heads);
            first = ((head / work->Group) * work->ValueStride) + work->First;
            var sum = work->Output.Target(head, work->ValueSize, scratch + work->KeySize + 1 + work->Count);
            sum.Clear();
            for (var key = 0; key < scores.Length; key++)
            {
                work->Values.AddTo(sum, first + key, scores[key]);
            }

            work->Output.Write(head, sum);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Weigh(Span<float> scores, Work* work, long row)
    {
        if (work->Mask is not null)
        {
            AttentionKernels.Hide(scores[^work->Masked..], new ReadOnlySpan<bool>(work->Mask + (row * work->MaskStride), work->Masked));
        }

        AttentionKernels.Softmax(scores);
    }

    /// <summary>The tensors and sizes of one pass.</summary>
    internal struct Work
    {
        public CpuRows Queries;
        public CpuRows Keys;
        public CpuRows Values;
        public CpuRows Output;
        public long KeyStride;
        public long ValueStride;
        public long Group;
        public long Heads;
        public long First;
        public int Count;
        public int KeySize;
        public int ValueSize;
        public bool* Mask;
        public int Masked;
        public long MaskStride;

        /// <summary>Memory that a thread needs.</summary>
        public readonly int ScratchFloats => Count + KeySize + 1 + ValueSize;
    }
}
