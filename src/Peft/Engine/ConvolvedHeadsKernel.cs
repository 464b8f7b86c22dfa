using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Peft.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>Heads that a recurrence reads among the channels of a short convolution.</summary>
/// <param name="Start">The first of their channels.</param>
/// <param name="Heads">Number of heads, side by side.</param>
/// <param name="Size">Channels of a head.</param>
/// <param name="Unit">Length that every head is brought to; 0 leaves it as it is.</param>
internal readonly record struct HeadChannels(long Start, long Heads, long Size, double Unit = 0);

/// <summary>
/// A short causal convolution of each channel by itself, silu and the length of heads, and the gradient of all three, in one pass over blocks
/// of positions that stay in the processor's cache; by operators they are some thirty passes over all channels.
/// </summary>
internal static unsafe class ConvolvedHeadsKernel
{
    private const long Block = 64;
    private const long GrainElements = 1 << 14;

    /// <summary>Forms heads; sums and products are float32, rounded to the input's type after the convolution and after silu, as by operators.</summary>
    /// <param name="x">[rows, length, channels], one that <see cref="CpuRows"/> serves.</param>
    /// <param name="weight">The taps' weights, the last for the position itself: float32 [taps, channels], contiguous.</param>
    /// <param name="heads">Which channels.</param>
    /// <param name="epsilon">Added to a head's square of its length.</param>
    /// <returns>float32 [rows, heads, length, size].</returns>
    public static Tensor Form(Tensor x, Tensor weight, HeadChannels heads, double epsilon)
    {
        var output = empty([x.size(0), heads.Heads, x.size(1), heads.Size], ScalarType.Float32, x.device);
        var work = new Work(x, weight, output, heads, epsilon);
        RowParallel.Run(work.Items, work.Grain, &FormBlocks, &work);
        GC.KeepAlive(x);
        GC.KeepAlive(weight);
        return output;
    }

    /// <summary>Puts the gradient of the input's channels that heads were formed of.</summary>
    /// <param name="x">What <see cref="Form"/> was given.</param>
    /// <param name="weight">As there.</param>
    /// <param name="heads">As there.</param>
    /// <param name="epsilon">As there.</param>
    /// <param name="gradient">Of what it returned, float32, contiguous.</param>
    /// <param name="target">Takes the result at these channels; of the input's shape and type.</param>
    public static void Gradient(Tensor x, Tensor weight, HeadChannels heads, double epsilon, Tensor gradient, Tensor target)
    {
        var work = new Work(x, weight, gradient, heads, epsilon) { Target = CpuRows.Of(target, 1) };
        RowParallel.Run(work.Items, work.Grain, &GradientBlocks, &work);
        GC.KeepAlive(x);
        GC.KeepAlive(weight);
        GC.KeepAlive(gradient);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FormBlocks(void* state, long from, long to)
    {
        var work = (Work*)state;
        var size = work->Size;
        var sums = (float*)NativeMemory.Alloc((nuint)(((2 * Block) + work->Taps) * size), sizeof(float));
        for (var item = from; item < to; item++)
        {
            var (head, first) = (item / work->Blocks, item % work->Blocks * Block);
            var count = Math.Min(Block, work->Length - first);
            Convolve(work, head, first, count, sums, sums + (Block * size));
            for (long i = 0; i < count; i++)
            {
                ReadOnlySpan<float> sum = new(sums + (i * size), size);
                var y = work->Head(head, first + i);
                TensorPrimitives.Sigmoid(sum, y);
                TensorPrimitives.Multiply(sum, y, y);
                if (work->Input.IsBFloat16)
                {
                    CpuRows.Round(y);
                }

                if (work->Unit > 0)
                {
                    TensorPrimitives.Multiply(y, work->Unit / MathF.Sqrt(TensorPrimitives.SumOfSquares<float>(y) + work->Epsilon), y);
                }
            }
        }

        NativeMemory.Free(sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void GradientBlocks(void* state, long from, long to)
    {
        var work = (Work*)state;
        var (size, taps) = (work->Size, work->Taps);

        // A block's inputs act on the positions behind it too, as far as there are taps.
        var most = Block + taps;
        var sums = (float*)NativeMemory.Alloc((nuint)(((2 * most) + taps + 3) * size), sizeof(float));
        var scratch = sums + (((2 * most) + taps) * size);
        for (var item = from; item < to; item++)
        {
            var (head, first) = (item / work->Blocks, item % work->Blocks * Block);
            var count = Math.Min(Block, work->Length - first);
            var reach = Math.Min(count + taps - 1, work->Length - first);
            Convolve(work, head, first, reach, sums, sums + (most * size));
            for (long i = 0; i < reach; i++)
            {
                SumGradient(work, new Span<float>(sums + (i * size), size), work->Head(head, first + i), scratch);
            }

            for (long i = 0; i < count; i++)
            {
                var place = work->Place(head, first + i);
                var result = work->Target.TargetAt(place, size, scratch);
                result.Clear();
                for (long later = 0; later < Math.Min(taps, reach - i); later++)
                {
                    TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(sums + ((i + later) * size), size), work->Tap(head, taps - 1 - later), result, result);
                }

                work->Target.WriteAt(place, result);
            }
        }

        NativeMemory.Free(sums);
    }

    /// <summary>The convolution at positions from the first on.</summary>
    /// <param name="work">The work.</param>
    /// <param name="head">Index of row and head.</param>
    /// <param name="first">The first position.</param>
    /// <param name="count">How many.</param>
    /// <param name="sums">Takes the results, [count, size].</param>
    /// <param name="inputs">Takes what they are formed of, [count + taps - 1, size].</param>
    private static void Convolve(Work* work, long head, long first, long count, float* sums, float* inputs)
    {
        var (size, taps) = (work->Size, work->Taps);
        for (long i = 0; i < count + taps - 1; i++)
        {
            var position = first + i - taps + 1;
            var input = new Span<float>(inputs + (i * size), size);
            if (position < 0)
            {
                input.Clear();
            }
            else if (work->Input.IsBFloat16)
            {
                work->Input.ReadAt(work->Place(head, position), size, inputs + (i * size));
            }
            else
            {
                work->Input.ReadAt(work->Place(head, position), size, null).CopyTo(input);
            }
        }

        for (long i = 0; i < count; i++)
        {
            var sum = new Span<float>(sums + (i * size), size);
            TensorPrimitives.Multiply(new ReadOnlySpan<float>(inputs + (i * size), size), work->Tap(head, 0), sum);
            for (long tap = 1; tap < taps; tap++)
            {
                TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(inputs + ((i + tap) * size), size), work->Tap(head, tap), sum, sum);
            }

            if (work->Input.IsBFloat16)
            {
                CpuRows.Round(sum);
            }
        }
    }

    /// <summary>Puts the gradient of one head's convolution in its place.</summary>
    private static void SumGradient(Work* work, Span<float> sum, ReadOnlySpan<float> gradient, float* scratch)
    {
        var size = sum.Length;
        var sigmoid = new Span<float>(scratch, size);
        var silu = new Span<float>(scratch + size, size);
        var along = new Span<float>(scratch + (2 * size), size);
        TensorPrimitives.Sigmoid(sum, sigmoid);
        TensorPrimitives.Multiply(sum, sigmoid, silu);

        // silu' = σ + silu − silu σ, in the place of the sum.
        TensorPrimitives.Multiply(silu, sigmoid, along);
        TensorPrimitives.Subtract(silu, along, along);
        TensorPrimitives.Add(sigmoid, along, sum);
        if (work->Unit == 0)
        {
            TensorPrimitives.Multiply(sum, gradient, sum);
            return;
        }

        // With r = 1 / |silu| the gradient of u r silu is u (r g − r³ (silu · g) silu).
        var square = TensorPrimitives.SumOfSquares<float>(silu) + work->Epsilon;
        var factor = work->Unit / MathF.Sqrt(square);
        TensorPrimitives.Multiply(silu, -TensorPrimitives.Dot(silu, gradient) / square, along);
        TensorPrimitives.Add(along, gradient, along);
        TensorPrimitives.Multiply(along, factor, along);
        TensorPrimitives.Multiply(sum, along, sum);
    }

    private struct Work(Tensor x, Tensor weight, Tensor heads, HeadChannels shape, double epsilon)
    {
        private readonly float* _weight = (float*)TensorMemory.Pointer(weight);
        private readonly float* _heads = (float*)TensorMemory.Pointer(heads);
        private readonly long _channels = x.size(2);
        private readonly long _start = shape.Start;
        private readonly long _count = shape.Heads;

        public readonly CpuRows Input = CpuRows.Of(x, 1);
        public readonly long Length = x.size(1);
        public readonly long Taps = weight.size(0);
        public readonly int Size = (int)shape.Size;
        public readonly long Blocks = (x.size(1) + Block - 1) / Block;
        public readonly long Items = x.size(0) * shape.Heads * ((x.size(1) + Block - 1) / Block);
        public readonly long Grain = Math.Max(1, GrainElements / (Block * shape.Size));
        public readonly float Unit = (float)shape.Unit;
        public readonly float Epsilon = (float)epsilon;
        public CpuRows Target;

        /// <summary>Offset of a head's elements among the input's.</summary>
        public readonly long Place(long head, long position) => (((head / _count * Length) + position) * _channels) + _start + (head % _count * Size);

        /// <summary>A head's elements at a position.</summary>
        public readonly Span<float> Head(long head, long position) => new(_heads + (((head * Length) + position) * Size), Size);

        /// <summary>A tap's weights for a head's channels.</summary>
        public readonly ReadOnlySpan<float> Tap(long head, long tap) => new(_weight + (tap * _channels) + _start + (head % _count * Size), Size);
    }
}
