using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>Rotates heads by their position in one pass; by operators it is four, over tensors with gaps.</summary>
internal static unsafe class RotaryKernel
{
    private const long GrainElements = 1 << 14;

    /// <summary>Whether <see cref="Rotate"/> serves heads and tables.</summary>
    public static bool Serves(Tensor heads, Tensor cosine, Tensor sine) =>
        CpuRows.Serves(cosine) && CpuRows.Serves(sine) && heads.dtype == cosine.dtype && CpuRows.ServesHeads(heads) && heads.size(-1) == cosine.size(-1);

    /// <summary>Rotates.</summary>
    /// <param name="heads">[rows, length, heads, size]; positions may lie apart, the heads of one don't.</param>
    /// <param name="cosine">[length, 1, size] or [rows, length, 1, size]; both halves of the last dimension are alike.</param>
    /// <param name="sine">Of the same shape; the first half is the second negated.</param>
    /// <param name="back">Whether by the negative angle, as gradients are.</param>
    /// <returns>[rows, length, heads, size], in memory of its own.</returns>
    public static Tensor Rotate(Tensor heads, Tensor cosine, Tensor sine, bool back)
    {
        long rows = heads.size(0), length = heads.size(1), count = heads.size(2), size = heads.size(3);
        var output = empty([rows, length, count, size], heads.dtype, heads.device);
        if (output.NumberOfElements == 0)
        {
            return output;
        }

        var work = new Work
        {
            Input = CpuRows.OfHeads(heads),
            Output = CpuRows.Of(output, size),
            Cosine = CpuRows.Of(cosine, size),
            Sine = CpuRows.Of(sine, size),
            Length = length,
            RowStride = heads.stride(0),
            PositionStride = heads.stride(1),
            Tables = cosine.NumberOfElements / size,
            Heads = (int)count,
            Size = (int)size,
            Back = back,
        };
        RowParallel.Run(rows * length, Math.Max(1, GrainElements / (count * size)), &Positions, &work);
        GC.KeepAlive(heads);
        return output;
    }

    /// <summary>Turns one head whose pairs are its elements i and i + half.</summary>
    /// <param name="x">The head.</param>
    /// <param name="cosine">Cosines of the pairs.</param>
    /// <param name="sine">Sines of the pairs.</param>
    /// <param name="y">The turned head.</param>
    /// <param name="product">As many numbers as pairs, to compute in.</param>
    public static void Turn(ReadOnlySpan<float> x, ReadOnlySpan<float> cosine, ReadOnlySpan<float> sine, Span<float> y, Span<float> product)
    {
        var half = cosine.Length;
        TensorPrimitives.Multiply(x[half..], sine, product);
        TensorPrimitives.Multiply(x[..half], cosine, y[..half]);
        TensorPrimitives.Subtract(y[..half], product, y[..half]);
        TensorPrimitives.Multiply(x[..half], sine, product);
        TensorPrimitives.Multiply(x[half..], cosine, y[half..]);
        TensorPrimitives.Add(y[half..], product, y[half..]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Positions(void* state, long from, long to)
    {
        var work = (Work*)state;
        int size = work->Size, half = size / 2;
        var scratch = (float*)NativeMemory.Alloc(5 * (nuint)size, sizeof(float));
        var product = new Span<float>(scratch + (4 * size), half);
        for (var position = from; position < to; position++)
        {
            var table = position % work->Tables;
            ReadOnlySpan<float> cosine = work->Cosine.Read(table, size, scratch)[..half];
            var sine = work->Sine.Read(table, size, scratch + size)[(work->Back ? 0 : half)..][..half];
            for (var head = 0; head < work->Heads; head++)
            {
                var offset = ((position / work->Length) * work->RowStride) + ((position % work->Length) * work->PositionStride) + (head * size);
                var x = work->Input.ReadAt(offset, size, scratch + (2 * size));
                var row = (position * work->Heads) + head;
                var y = work->Output.Target(row, size, scratch + (3 * size));
                Turn(x, cosine, sine, y, product);
                work->Output.Write(row, y);
            }
        }

        NativeMemory.Free(scratch);
    }

    private struct Work
    {
        public CpuRows Input;
        public CpuRows Output;
        public CpuRows Cosine;
        public CpuRows Sine;
        public long Length;
        public long RowStride;
        public long PositionStride;
        public long Tables;
        public int Heads;
        public int Size;
        public bool Back;
    }
}
