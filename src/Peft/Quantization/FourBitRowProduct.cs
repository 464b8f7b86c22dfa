using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>
/// y = W x of one row x and a weight of four-bit blocks, read as it is stored: a code's value comes out of a register, its block's scale is applied to the sum
/// over the block. Sums are float32; of an input in bfloat16 those over a block are of integers, where the processor has what they take.
/// </summary>
internal static unsafe class FourBitRowProduct
{
    // Numbers that one scale surely covers, and that one step of the loop takes of a scale.
    private const int Step = 64;
    private const long GrainElements = 1 << 17;

    /// <summary>Forms the product where the processor, the sizes and the types allow it.</summary>
    /// <param name="parts">The weight, on the CPU.</param>
    /// <param name="x">[1, in], float32 or bfloat16.</param>
    /// <param name="y">[1, out], of the same type; written over.</param>
    /// <returns>Whether it did.</returns>
    public static bool TryRun(FourBitParts parts, Tensor x, Tensor y)
    {
        long width = x.size(1), height = y.size(1);
        if (!Serves(parts, width) || !CpuRows.Serves(x) || !CpuRows.Serves(y) || x.dtype != y.dtype)
        {
            return false;
        }

        var input = (float*)NativeMemory.AlignedAlloc((nuint)ScratchFloats(width) * sizeof(float), 64);
        fixed (float* table = parts.Type.Values, map = DynamicMap.Signed.Values)
        {
            var work = Work.Of(parts, width, x.dtype, table, map);
            Arrange(CpuRows.Of(x, width), 0, &work, input, input + width + (2 * Step));
            work.Input = input;
            work.Result = CpuRows.Of(y, 1);
            RowParallel.Run(height, Math.Max(1, GrainElements / width), &Rows, &work);
        }

        NativeMemory.AlignedFree(input);
        GC.KeepAlive(x);
        GC.KeepAlive(y);
        GC.KeepAlive(parts);
        return true;
    }

    /// <summary>The weights as products of a recorded step read them, where the processor and the sizes allow it.</summary>
    /// <param name="parts">The weight.</param>
    /// <param name="shape">[out, in].</param>
    /// <param name="type">The input's type, float32 or bfloat16.</param>
    public static StepRows? Rows(FourBitParts parts, IReadOnlyList<long> shape, ScalarType type) => Serves(parts, shape[1]) ? new RowsOfCodes(parts, shape, type) : null;

    // The input in order, and behind it a row or the scales of one.
    private static int ScratchFloats(long width) => (int)((2 * width) + (4 * Step));

    private static bool Serves(FourBitParts parts, long width) => (Avx512F.IsSupported || (Avx2.IsSupported && Fma.IsSupported))
        && width % Step == 0 && parts.BlockSize % Step == 0 && width > 0 && parts.Packed.device_type == TorchSharp.DeviceType.CPU;

    /// <summary>
    /// The input in the order in which codes come out of a register of 32-bit words, each of eight codes: of all words the codes in the lowest four bits,
    /// then in the next four, and so on. The first of two codes is in the upper half of its byte.
    /// </summary>
    /// <param name="x">Inputs.</param>
    /// <param name="row">Which of them.</param>
    /// <param name="work">The weight.</param>
    /// <param name="to">Takes it, with <see cref="Step"/> times two more.</param>
    /// <param name="scratch">Room for a row.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Arrange(CpuRows x, long row, Work* work, float* to, float* scratch)
    {
        var (width, lanes) = (work->Width, Avx512F.IsSupported ? 16 : 8);
        var everyEighth = Vector256.Create(0, 8, 16, 24, 32, 40, 48, 56);
        fixed (float* all = x.Read(row, (int)width, scratch))
        {
            if (work->IsInteger)
            {
                FourBitIntegers.Arrange(all, width, work->Table, to);
                return;
            }

            for (long start = 0; start < width; start += 8 * lanes)
            {
                // Width is a multiple of eight words; where the last sixteen are eight, the others weigh nothing.
                for (var lane = 0; lane < lanes; lane += 8)
                {
                    var from = start + (8 * lane);
                    for (var place = 0; place < 8; place++)
                    {
                        var eight = from < width ? Avx2.GatherVector256(all + from + (place ^ 1), everyEighth, sizeof(float)) : Vector256<float>.Zero;
                        eight.Store(to + start + (place * lanes) + lane);
                    }
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Rows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var scales = (float*)NativeMemory.Alloc((nuint)(FourBitIntegers.RowsAtOnce * ((work->Width / Step) + 1)), sizeof(float));
        var sums = stackalloc float[ProductOutput.Most];
        for (; from < to; from += ProductOutput.Most)
        {
            var end = Math.Min(to, from + ProductOutput.Most);
            Sums(work, from, end, sums, scales);
            for (var row = from; row < end; row++)
            {
                work->Result.Put(row, sums[row - from]);
            }
        }

        NativeMemory.Free(scales);
    }

    /// <summary>The sums of some rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums(Work* work, long from, long to, float* sums, float* scales)
    {
        var (steps, bytes) = (work->Width / Step, work->Width / 2);
        for (; work->IsInteger && from <= to - FourBitIntegers.RowsAtOnce; from += FourBitIntegers.RowsAtOnce, sums += FourBitIntegers.RowsAtOnce)
        {
            var own = work->ScalesOf(from * steps, FourBitIntegers.RowsAtOnce * steps, scales);
            FourBitIntegers.Dots(work->Codes + (from * bytes), own, work->Input, steps, sums);
        }

        for (; from < to; from++, sums++)
        {
            var codes = work->Codes + (from * bytes);
            var own = work->ScalesOf(from * steps, steps, scales);
            *sums = work->IsInteger ? FourBitIntegers.Dot(codes, own, work->Input, steps)
                : Avx512F.IsSupported ? Dot512(codes, own, work->Input, work->Table, steps)
                : Dot256(codes, own, work->Input, work->Table, steps);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Dot512(byte* codes, float* scales, float* x, float* table, long steps)
    {
        var (entries, sum) = (Vector512.Load(table), Vector512<float>.Zero);
        long step = 0;
        for (; step <= steps - 2; step += 2)
        {
            ReadAhead.Of(codes + (step * Step / 2));
            var scale = VectorLanes.Pair(scales + step);
            sum = Vector512.FusedMultiplyAdd(Words(Vector512.Load((int*)(codes + (step * Step / 2))), entries, x + (step * Step)), scale, sum);
        }

        if (step < steps)
        {
            var words = Vector512.Create(Vector256.Load((int*)(codes + (step * Step / 2))), Vector256<int>.Zero);
            sum = Vector512.FusedMultiplyAdd(Words(words, entries, x + (step * Step)), Vector512.Create(scales[step]), sum);
        }

        return Vector512.Sum(sum);
    }

    /// <summary>Sums of the products of sixteen words' codes; a look-up takes the lowest four bits of an index.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Words(Vector512<int> words, Vector512<float> entries, float* x)
    {
        var a = Avx512F.PermuteVar16x32(entries, words) * Vector512.Load(x);
        var b = Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 4)) * Vector512.Load(x + 16);
        a = Vector512.FusedMultiplyAdd(Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 8)), Vector512.Load(x + 32), a);
        b = Vector512.FusedMultiplyAdd(Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 12)), Vector512.Load(x + 48), b);
        a = Vector512.FusedMultiplyAdd(Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 16)), Vector512.Load(x + 64), a);
        b = Vector512.FusedMultiplyAdd(Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 20)), Vector512.Load(x + 80), b);
        a = Vector512.FusedMultiplyAdd(Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 24)), Vector512.Load(x + 96), a);
        b = Vector512.FusedMultiplyAdd(Avx512F.PermuteVar16x32(entries, Vector512.ShiftRightLogical(words, 28)), Vector512.Load(x + 112), b);
        return a + b;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Dot256(byte* codes, float* scales, float* x, float* table, long steps)
    {
        var (lower, upper, sum) = (Vector256.Load(table), Vector256.Load(table + 8), Vector256<float>.Zero);
        for (long step = 0; step < steps; step++)
        {
            ReadAhead.Of(codes + (step * Step / 2));
            var words = Vector256.Load((int*)(codes + (step * Step / 2)));
            var (a, b) = (Vector256<float>.Zero, Vector256<float>.Zero);
            for (var place = 0; place < 8; place += 2)
            {
                var input = x + (step * Step) + (8 * place);
                a = Vector256.FusedMultiplyAdd(Look(lower, upper, words), Vector256.Load(input), a);
                b = Vector256.FusedMultiplyAdd(Look(lower, upper, Vector256.ShiftRightLogical(words, 4)), Vector256.Load(input + 8), b);
                words = Vector256.ShiftRightLogical(words, 8);
            }

            sum = Vector256.FusedMultiplyAdd(a + b, Vector256.Create(scales[step]), sum);
        }

        return Vector256.Sum(sum);
    }

    /// <summary>The fourth bit of a code chooses the half of the table; a look-up takes the lowest three bits of an index.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Look(Vector256<float> lower, Vector256<float> upper, Vector256<int> words) => Avx.BlendVariable(
        Avx2.PermuteVar8x32(lower, words), Avx2.PermuteVar8x32(upper, words), Vector256.ShiftLeft(words, 28).AsSingle());

    private sealed class RowsOfCodes(FourBitParts parts, IReadOnlyList<long> shape, ScalarType type) : StepRows
    {
        private readonly long _width = shape[1];
        private readonly FourBitParts _parts = parts;
        private readonly Work _work = Work.Of(parts, shape[1], type, null, null);

        public override long Count { get; } = shape[0];

        public override long Grain => Math.Max(1, (1 << 14) / _width);

        public override int ScratchFloats => FourBitRowProduct.ScratchFloats(_width);

        public override (nint Start, long Bytes) Memory(long from, long to) => ((nint)(_work.Codes + (from * _width / 2)), (to - from) * _width / 2);

        public override float* Arrange(CpuRows x, long row, float* scratch)
        {
            fixed (float* table = _parts.Type.Values)
            {
                var work = _work;
                work.Table = table;
                FourBitRowProduct.Arrange(x, row, &work, scratch, scratch + _width + (2 * Step));
            }

            return scratch;
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public override void Sum(long from, int count, float* input, float* sums)
        {
            fixed (float* table = _parts.Type.Values, map = DynamicMap.Signed.Values)
            {
                var work = _work;
                work.Input = input;
                work.Table = table;
                work.Map = map;
                Sums(&work, from, from + count, sums, input + _width + (2 * Step));
            }
        }
    }

    private struct Work
    {
        public float* Input;
        public CpuRows Result;
        public long Width;
        public bool IsInteger;
        public byte* Codes;
        public float* Table;
        public byte* Scales;
        public float* Nested;
        public float Offset;
        public float* Map;
        public int BlockShift;

        /// <summary>What doesn't depend on the input.</summary>
        public static Work Of(FourBitParts parts, long width, ScalarType type, float* table, float* map) => new()
        {
            Width = width, IsInteger = type == ScalarType.BFloat16 && FourBitIntegers.IsSupported, Codes = TensorMemory.Pointer(parts.Packed), Table = table,
            Scales = TensorMemory.Pointer(parts.Scales), Nested = parts.NestedScales is { } nested ? (float*)TensorMemory.Pointer(nested) : null,
            Offset = parts.NestedOffset, Map = map, BlockShift = System.Numerics.BitOperations.Log2((uint)(parts.BlockSize / Step)),
        };

        /// <summary>The scale of each step of a row: where they lie, or in the scratch memory.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public readonly float* ScalesOf(long first, long count, float* scratch)
        {
            if (Nested is null)
            {
                if (BlockShift == 0)
                {
                    return (float*)Scales + first;
                }

                for (long i = 0; i < count; i++)
                {
                    scratch[i] = ((float*)Scales)[(first + i) >> BlockShift];
                }

                return scratch;
            }

            for (long i = 0; i < count;)
            {
                // Up to the end of a block of scales they share its own scale.
                var block = (first + i) >> BlockShift;
                var nested = Nested[block / FourBitWeight.NestedBlockSize];
                var end = Math.Min(count, (((block / FourBitWeight.NestedBlockSize) + 1) * FourBitWeight.NestedBlockSize << BlockShift) - first);
                if (BlockShift == 0)
                {
                    for (; i <= end - 8; i += 8)
                    {
                        var codes = Avx2.ConvertToVector256Int32(Scales + first + i);
                        Vector256.FusedMultiplyAdd(Avx2.GatherVector256(Map, codes, sizeof(float)), Vector256.Create(nested), Vector256.Create(Offset)).Store(scratch + i);
                    }
                }

                for (; i < end; i++)
                {
                    scratch[i] = (Map[Scales[(first + i) >> BlockShift]] * nested) + Offset;
                }
            }

            return scratch;
        }
    }
}
