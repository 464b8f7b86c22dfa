using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
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
    /// <param name="bias">Added to scores, [rows or 1, heads, 1, keys]; null for nothing. See <see cref="ServesBias"/>.</param>
    /// <param name="sinks">One more score a head, [heads], that gives no value; null for none.</param>
    /// <returns>[rows, heads · value size].</returns>
    public static Tensor Run(Tensor queries, Tensor keys, Tensor values, (long First, long Count) seen, Tensor? mask, Tensor? bias = null, Tensor? sinks = null)
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
        work.Add(bias);
        work.AddSinks(sinks);
        RowParallel.Run(rows * heads, Math.Max(1, GrainElements / (work.Count * (long)work.KeySize)), &Heads, &work);
        GC.KeepAlive(queries);
        GC.KeepAlive(mask);
        GC.KeepAlive(bias);
        GC.KeepAlive(sinks);
        return output;
    }

    /// <summary>Whether what is added to scores, or stands beside them, lies as the kernel reads it.</summary>
    /// <param name="bias">[rows or 1, heads, 1, keys], or [heads]; null for nothing.</param>
    public static bool ServesBias(Tensor? bias) => bias is null || CpuRows.Serves(bias);

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
        var room = scratch + work->KeySize + 1 + work->Count + 1;
        for (var head = from; head < to; head++)
        {
            var query = RowProduct.Input(work->Queries, head, work->KeySize, scratch);
            var first = ((head / work->Group) * work->KeyStride) + work->First;
            Scores(work, first, query, scratch + work->KeySize + 1);
            if (work->BiasKeys > 0)
            {
                var start = ((head % work->BiasHeads) * work->BiasKeys) + work->First;
                TensorPrimitives.Add(scores, work->Bias.ReadAt(start, work->Count, room), scores);
            }

            Weigh(scores, work, head);
            first = ((head / work->Group) * work->ValueStride) + work->First;
            var sum = work->Output.Target(head, work->ValueSize, room);
            fixed (float* target = sum)
            {
                Weighted(work, first, scratch + work->KeySize + 1, target);
            }

            work->Output.Write(head, sum);
        }
    }

    /// <summary>The products of a query with all keys; four keys read the query once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores(Work* work, long first, float* query, float* scores)
    {
        var (size, key) = (work->KeySize, 0);
        var step = work->Keys.IsBFloat16 ? 32 : 16;
        for (; Vector512.IsHardwareAccelerated && size % step == 0 && key <= work->Count - 4; key += 4)
        {
            var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
            if (work->Keys.IsBFloat16)
            {
                var keys = (ushort*)work->Keys.Row(first + key);
                for (var i = 0; i < size; i += 32)
                {
                    var (lower, upper) = (Vector512.Load(query + i), Vector512.Load(query + i + 16));
                    a = AddHalves(keys + i, lower, upper, a);
                    b = AddHalves(keys + size + i, lower, upper, b);
                    c = AddHalves(keys + (2 * size) + i, lower, upper, c);
                    d = AddHalves(keys + (3 * size) + i, lower, upper, d);
                }
            }
            else
            {
                var keys = (float*)work->Keys.Row(first + key);
                for (var i = 0; i < size; i += 16)
                {
                    var x = Vector512.Load(query + i);
                    a = Vector512.FusedMultiplyAdd(Vector512.Load(keys + i), x, a);
                    b = Vector512.FusedMultiplyAdd(Vector512.Load(keys + size + i), x, b);
                    c = Vector512.FusedMultiplyAdd(Vector512.Load(keys + (2 * size) + i), x, c);
                    d = Vector512.FusedMultiplyAdd(Vector512.Load(keys + (3 * size) + i), x, d);
                }
            }

            VectorLanes.Sums(a, b, c, d).Store(scores + key);
        }

        for (; key < work->Count; key++)
        {
            scores[key] = RowProduct.Dot(work->Keys, first + key, query, size);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> AddHalves(ushort* keys, Vector512<float> lower, Vector512<float> upper, Vector512<float> sum)
    {
        var pairs = Vector512.Load(keys).AsUInt32();
        sum = Vector512.FusedMultiplyAdd(Vector512.ShiftLeft(pairs, 16).AsSingle(), lower, sum);
        return Vector512.FusedMultiplyAdd((pairs & Vector512.Create(0xFFFF0000u)).AsSingle(), upper, sum);
    }

    /// <summary>The sum of all values by their weights; some columns at a time, whose sums stay in registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Weighted(Work* work, long first, float* weights, float* sum)
    {
        var (size, column) = (work->ValueSize, 0);
        for (; Vector512.IsHardwareAccelerated && column <= size - 64; column += 64)
        {
            var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
            for (var key = 0; key < work->Count; key++)
            {
                var weight = Vector512.Create(weights[key]);
                var at = ((first + key) * size) + column;
                a = Vector512.FusedMultiplyAdd(Sixteen(work->Values, at), weight, a);
                b = Vector512.FusedMultiplyAdd(Sixteen(work->Values, at + 16), weight, b);
                c = Vector512.FusedMultiplyAdd(Sixteen(work->Values, at + 32), weight, c);
                d = Vector512.FusedMultiplyAdd(Sixteen(work->Values, at + 48), weight, d);
            }

            a.Store(sum + column);
            b.Store(sum + column + 16);
            c.Store(sum + column + 32);
            d.Store(sum + column + 48);
        }

        if (column < size)
        {
            var rest = new Span<float>(sum + column, size - column);
            rest.Clear();
            for (var key = 0; key < work->Count; key++)
            {
                work->Values.Part(((first + key) * size) + column, size - column).AddTo(rest, 0, weights[key]);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Sixteen(CpuRows values, long element) => values.IsBFloat16
        ? Vector512.ShiftLeft(Vector512.WidenLower(Vector256.Load((ushort*)values.Row(0) + element).ToVector512Unsafe()), 16).AsSingle()
        : Vector512.Load((float*)values.Row(0) + element);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Weigh(Span<float> scores, Work* work, long head)
    {
        if (work->Mask is not null)
        {
            AttentionKernels.Hide(scores[^work->Masked..], new ReadOnlySpan<bool>(work->Mask + (head / work->Heads * work->MaskStride), work->Masked));
        }

        if (work->HasSinks)
        {
            // Its share of the softmax stands behind the others, and nobody reads it.
            scores = MemoryMarshal.CreateSpan(ref MemoryMarshal.GetReference(scores), scores.Length + 1);
            scores[^1] = work->Sinks.Get(head % work->Heads);
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
        public CpuRows Bias;
        public long BiasHeads;
        public long BiasKeys;
        public CpuRows Sinks;
        public bool HasSinks;

        /// <summary>Memory that a thread needs.</summary>
        public readonly int ScratchFloats => Count + KeySize + 2 + (BiasKeys > 0 ? Math.Max(ValueSize, Count) : ValueSize);

        /// <summary>Takes one more score a head, [heads].</summary>
        public void AddSinks(Tensor? sinks)
        {
            HasSinks = sinks is not null;
            Sinks = sinks is null ? default : CpuRows.Of(sinks, 1);
        }

        /// <summary>Takes what is added to scores, [rows or 1, heads, 1, keys].</summary>
        public void Add(Tensor? bias)
        {
            (BiasHeads, BiasKeys) = (1, 0);
            if (bias is not null)
            {
                BiasKeys = bias.size(3);
                BiasHeads = bias.NumberOfElements / BiasKeys;
                Bias = CpuRows.Of(bias, BiasKeys);
            }
        }
    }
}
