using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization.Blocks;

/// <summary>
/// Work on GGUF's blocks as they are stored, for one type of them: the product of one row, y = W x, whose scales are applied to sums over sixteen numbers, and
/// unpacking, bit for bit as the format's reference. Sums are float32.
/// </summary>
internal abstract unsafe class BlockKernels
{
    private static readonly Dictionary<string, BlockKernels> s_all = new(StringComparer.Ordinal)
    {
        ["Q8_0"] = new Of<Q8Zero>(),
        ["Q4_0"] = new Of<Q4Zero>(),
        ["Q4_1"] = new Of<Q4One>(),
        ["Q5_0"] = new Of<Q5Zero>(),
        ["Q5_1"] = new Of<Q5One>(),
        ["Q4_K"] = new Of<Q4K>(),
        ["Q5_K"] = new Of<Q5K>(),
        ["Q6_K"] = new Of<Q6K>(),
        ["MXFP4"] = new Of<Mxfp4>(),
    };

    // Numbers that are worth a thread of their own.
    private const long GrainElements = 1 << 16;

    // Before a loop is compiled, so that it takes the table for there.
    static BlockKernels() => RuntimeHelpers.RunClassConstructor(typeof(BlockBits).TypeHandle);

    /// <summary>Those of a type; null where there are none, or the processor hasn't what they need.</summary>
    public static BlockKernels? Find(string type) => Avx2.IsSupported && Fma.IsSupported && BitConverter.IsLittleEndian ? s_all.GetValueOrDefault(type) : null;

    /// <summary>Forms the product where types allow it.</summary>
    /// <param name="blocks">[out, bytes of a row], uint8, on the CPU.</param>
    /// <param name="x">[1, in], float32 or bfloat16.</param>
    /// <param name="y">[1, out], of the same type; written over.</param>
    /// <returns>Whether it did.</returns>
    public bool TryMultiply(Tensor blocks, Tensor x, Tensor y)
    {
        long width = x.size(1), height = y.size(1);
        if (!CpuRows.Serves(x) || !CpuRows.Serves(y) || x.dtype != y.dtype || width == 0)
        {
            return false;
        }

        var input = (float*)NativeMemory.AlignedAlloc((nuint)InputFloats(width) * sizeof(float), 64);
        var row = CpuRows.Of(x, width);
        Arrange(row, width, input);
        var work = new Work { Blocks = TensorMemory.Pointer(blocks), Stride = blocks.size(1), Width = width, Input = input, IsInteger = row.IsBFloat16, Result = CpuRows.Of(y, 1) };
        RowParallel.Run(height, Math.Max(1, GrainElements / width), RowsOfProduct, &work);
        NativeMemory.AlignedFree(input);
        GC.KeepAlive(x);
        GC.KeepAlive(y);
        GC.KeepAlive(blocks);
        return true;
    }

    /// <summary>The weights as products of a recorded step read them.</summary>
    /// <param name="blocks">[out, bytes of a row] or [experts, out, bytes of a row], uint8, on the CPU.</param>
    /// <param name="width">Numbers of a row.</param>
    /// <param name="type">The input's type, float32 or bfloat16.</param>
    public StepRows? Rows(Tensor blocks, long width, ScalarType type) => width > 0 ? new RowsOfBlocks(this, blocks, width, type) : null;

    private static long InputFloats(long width) => width + (width / 16);

    /// <summary>The input as the product takes it: itself and the sums of sixteens, or integers of one in bfloat16, which are as fine.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Arrange(CpuRows x, long width, float* to)
    {
        if (x.IsBFloat16)
        {
            BlockIntegers.Arrange(x, width, BlockWidth, to);
            return;
        }

        x.Read(0, (int)width, to).CopyTo(new Span<float>(to, (int)width));
        for (long group = 0; group < width / 16; group++)
        {
            to[width + group] = Vector512.Sum(Vector512.Load(to + (16 * group)));
        }
    }

    /// <summary>Writes the values.</summary>
    /// <param name="blocks">[out, bytes of a row], uint8, on the CPU.</param>
    /// <param name="width">Numbers of a row.</param>
    /// <param name="target">float32 or bfloat16, contiguous, on the CPU.</param>
    public void Unpack(Tensor blocks, long width, Tensor target)
    {
        var work = new Work { Blocks = TensorMemory.Pointer(blocks), Stride = blocks.size(1), Width = width, Result = CpuRows.Of(target, width) };
        RowParallel.Run(blocks.size(0), Math.Max(1, GrainElements / width), RowsOfValues, &work);
        GC.KeepAlive(blocks);
        GC.KeepAlive(target);
    }

    private protected abstract delegate*<void*, long, long, void> RowsOfProduct { get; }

    private protected abstract delegate*<void*, long, long, void> RowsOfValues { get; }

    /// <summary>Numbers of a block.</summary>
    private protected abstract long BlockWidth { get; }

    private sealed class RowsOfBlocks(BlockKernels kernels, Tensor blocks, long width, ScalarType type) : StepRows
    {
        private readonly Work _work = new() { Blocks = TensorMemory.Pointer(blocks), Stride = blocks.size(-1), Width = width, IsInteger = type == ScalarType.BFloat16 };

        public override long Count { get; } = blocks.NumberOfElements / blocks.size(-1);

        public override long Grain => Math.Max(1, (1 << 14) / _work.Width);

        public override int ScratchFloats => (int)InputFloats(_work.Width);

        public override (nint Start, long Bytes) Memory(long from, long to) => ((nint)(_work.Blocks + (from * _work.Stride)), (to - from) * _work.Stride);

        public override float* Arrange(CpuRows x, long row, float* scratch)
        {
            kernels.Arrange(x.Part(row * _work.Width, _work.Width), _work.Width, scratch);
            return scratch;
        }

        public override void Sum(long from, int count, float* input, float* sums)
        {
            var work = _work;
            work.Input = input;
            work.Result = CpuRows.At((byte*)(sums - from), 1, isBFloat16: false);
            kernels.RowsOfProduct(&work, from, from + count);
        }
    }

    private struct Work
    {
        public byte* Blocks;
        public long Stride;
        public long Width;
        public float* Input;
        public bool IsInteger;
        public CpuRows Result;
    }

    private sealed class Of<T> : BlockKernels
        where T : struct, IBlockCodes
    {
        private protected override delegate*<void*, long, long, void> RowsOfProduct => &Multiply;

        private protected override delegate*<void*, long, long, void> RowsOfValues => &Write;

        private protected override long BlockWidth => 16 * T.Groups;

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private static void Multiply(void* state, long from, long to)
        {
            var work = (Work*)state;
            for (var row = from; row < to; row++)
            {
                var block = work->Blocks + (row * work->Stride);
                for (long i = 0; i < work->Stride; i += ReadAhead.Line)
                {
                    ReadAhead.Of(block + i);
                }

                var sum = work->IsInteger
                    ? BlockIntegers.Dot<T>(block, work->Input, work->Width)
                    : Dot(block, work->Input, work->Input + work->Width, work->Width / (16 * T.Groups));
                work->Result.Put(row, sum);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static float Dot(byte* block, float* x, float* sums, long blocks) => T.Groups == 2 ? DotOfPairs(block, x, sums, blocks) : DotOfSixteens(block, x, sums, blocks);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static float DotOfPairs(byte* block, float* x, float* sums, long blocks)
        {
            var (a, b, taken) = (Vector512<float>.Zero, Vector512<float>.Zero, 0f);
            for (; blocks >= 2; blocks -= 2, block += 2 * T.Bytes, x += 64, sums += 4)
            {
                Pair(block, x, sums, ref a, ref taken);
                Pair(block + T.Bytes, x + 32, sums + 2, ref b, ref taken);
            }

            if (blocks > 0)
            {
                Pair(block, x, sums, ref a, ref taken);
            }

            return Vector512.Sum(a + b) - taken;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Pair(byte* block, float* x, float* sums, ref Vector512<float> sum, ref float taken)
        {
            var (scale, offset) = T.Scale(block);
            var (first, second) = Floats(block, 0);
            var products = Vector512.FusedMultiplyAdd(second, Vector512.Load(x + 16), first * Vector512.Load(x));
            sum = Vector512.FusedMultiplyAdd(products, Vector512.Create(scale), sum);
            if (T.HasOffsets)
            {
                taken += offset * (sums[0] + sums[1]);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static float DotOfSixteens(byte* block, float* x, float* sums, long blocks)
        {
            var scales = stackalloc float[32];
            var offsets = scales + 16;
            var (a, b, taken) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
            for (; blocks > 0; blocks--, block += T.Bytes, x += 256, sums += 16)
            {
                T.Scales(block, scales, offsets);
                Add(block, 0, x, scales, ref a);
                Add(block, 1, x, scales, ref b);
                Add(block, 2, x, scales, ref a);
                Add(block, 3, x, scales, ref b);
                Add(block, 4, x, scales, ref a);
                Add(block, 5, x, scales, ref b);
                Add(block, 6, x, scales, ref a);
                Add(block, 7, x, scales, ref b);
                if (T.HasOffsets)
                {
                    taken = Vector512.FusedMultiplyAdd(Vector512.Load(offsets), Vector512.Load(sums), taken);
                }
            }

            return Vector512.Sum(a + b - taken);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Add(byte* block, int pair, float* x, float* scales, ref Vector512<float> sum)
        {
            var (first, second) = Floats(block, pair);
            first *= Vector512.Load(x + (32 * pair));
            if (!T.HasScalesOfSixteen)
            {
                first = Vector512.FusedMultiplyAdd(second, Vector512.Load(x + (32 * pair) + 16), first);
                sum = Vector512.FusedMultiplyAdd(first, Vector512.Create(scales[2 * pair]), sum);
                return;
            }

            sum = Vector512.FusedMultiplyAdd(first, Vector512.Create(scales[2 * pair]), sum);
            sum = Vector512.FusedMultiplyAdd(second * Vector512.Load(x + (32 * pair) + 16), Vector512.Create(scales[(2 * pair) + 1]), sum);
        }

        /// <summary>The codes of two groups.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static (Vector512<float> First, Vector512<float> Second) Floats(byte* block, int pair)
        {
            var codes = T.Codes(block, pair);
            return (Floats(codes.GetLower()), Floats(codes.GetUpper()));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector512<float> Floats(Vector256<short> codes) => Vector512.ConvertToSingle(Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(codes)
            : Vector512.Create(Avx2.ConvertToVector256Int32(codes.GetLower()), Avx2.ConvertToVector256Int32(codes.GetUpper())));

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private static void Write(void* state, long from, long to)
        {
            var work = (Work*)state;
            var values = stackalloc float[16 * T.Groups];
            var scales = stackalloc float[32];
            var blocks = work->Width / (16 * T.Groups);
            for (var row = from; row < to; row++)
            {
                var block = work->Blocks + (row * work->Stride);
                for (long i = 0; i < blocks; i++, block += T.Bytes)
                {
                    var at = i * 16 * T.Groups;
                    var own = work->Result.IsBFloat16 ? values : (float*)work->Result.Row(row) + at;
                    if (T.Groups == 2)
                    {
                        (scales[0], scales[16]) = T.Scale(block);
                        (scales[1], scales[17]) = (scales[0], scales[16]);
                    }
                    else
                    {
                        T.Scales(block, scales, scales + 16);
                    }

                    for (var group = 0; group < T.Groups; group += 2)
                    {
                        var (first, second) = Floats(block, group / 2);
                        Scaled(first, scales + group).Store(own + (16 * group));
                        Scaled(second, scales + group + 1).Store(own + (16 * group) + 16);
                    }

                    if (work->Result.IsBFloat16)
                    {
                        CpuRows.Narrow(values, (ushort*)work->Result.Row(row) + at, 16 * T.Groups);
                    }
                }
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector512<float> Scaled(Vector512<float> codes, float* scale) =>
            T.HasOffsets ? (codes * Vector512.Create(scale[0])) - Vector512.Create(scale[16]) : codes * Vector512.Create(scale[0]);
    }
}
