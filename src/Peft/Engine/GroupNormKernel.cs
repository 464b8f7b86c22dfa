using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>
/// The norm of groups of channels with SiLU behind it, and its gradient, channel by channel in pieces that stay in the processor's first
/// cache. Nothing is kept between the two but each group's mean and the inverse of its deviation.
/// </summary>
internal static unsafe class GroupNormKernel
{
    private const int PieceElements = 2048;
    private const int ScratchPieces = 4;

    /// <summary>What the norm is made with.</summary>
    /// <param name="Weight">[channels], float32.</param>
    /// <param name="Bias">[channels].</param>
    /// <param name="Groups">A divisor of the channels.</param>
    /// <param name="Epsilon">Added to the variance.</param>
    /// <param name="Activates">Whether SiLU follows.</param>
    public readonly record struct Settings(Tensor Weight, Tensor Bias, long Groups, double Epsilon, bool Activates);

    /// <summary>silu(w · (x − m) · r + b), or that without SiLU, with each group's mean m and r = 1 / sqrt(variance + ε).</summary>
    /// <param name="x">[rows, channels, …], one that <see cref="CpuRows"/> serves.</param>
    /// <param name="settings">The norm.</param>
    /// <returns>The result, of the input's shape, and m and r of each group, float32 [rows · groups, 2].</returns>
    public static (Tensor Result, Tensor Moments) Form(Tensor x, Settings settings)
    {
        using var scope = NewDisposeScope();
        var (y, moments) = (empty_like(x), empty([x.size(0) * settings.Groups, 2], ScalarType.Float32));
        var work = Work.Of(x, settings, moments);
        work.Result = CpuRows.Of(y, 0);
        RowParallel.Run(moments.size(0), work.Grain, &FormGroups, &work);
        GC.KeepAlive((x, settings));
        return (y.MoveToOuterDisposeScope(), moments.MoveToOuterDisposeScope());
    }

    /// <summary>m and r of each group alone, as <see cref="Form"/> returns them.</summary>
    public static Tensor Moments(Tensor x, Settings settings)
    {
        var moments = empty([x.size(0) * settings.Groups, 2], ScalarType.Float32);
        var work = Work.Of(x, settings, moments);
        RowParallel.Run(moments.size(0), work.Grain, &MeasureGroups, &work);
        GC.KeepAlive((x, settings));
        return moments;
    }

    /// <summary>The result in some of an image's lines.</summary>
    /// <param name="x">[rows, channels, height, width].</param>
    /// <param name="moments">Of all of it.</param>
    /// <param name="settings">The norm.</param>
    /// <param name="top">First line.</param>
    /// <param name="count">Number of lines.</param>
    /// <returns>[rows, channels, count, width].</returns>
    public static Tensor Strip(Tensor x, Tensor moments, Settings settings, long top, long count)
    {
        var y = empty([x.size(0), x.size(1), count, x.size(3)], x.dtype);
        var work = Work.Of(x, settings, moments);
        (work.Result, work.From, work.Count) = (CpuRows.Of(y, 0), top * x.size(3), count * x.size(3));
        RowParallel.Run(x.size(0) * x.size(1), 1, &FormStrips, &work);
        GC.KeepAlive((x, moments, settings));
        return y;
    }

    /// <summary>The gradients.</summary>
    /// <param name="x">The input.</param>
    /// <param name="gradient">Of the result, of the same shape and type.</param>
    /// <param name="moments">What <see cref="Form"/> returned.</param>
    /// <param name="settings">The norm.</param>
    /// <returns>The input's gradient, and what each channel of each row adds to those of bias and weight, float32 [rows, channels, 2].</returns>
    public static (Tensor Input, Tensor Channels) Gradients(Tensor x, Tensor gradient, Tensor moments, Settings settings)
    {
        using var scope = NewDisposeScope();
        var (gx, sums) = (empty_like(x), empty([x.size(0), x.size(1), 2], ScalarType.Float32));
        var work = Work.Of(x, settings, moments);
        work.Gradient = CpuRows.Of(gradient, 0);
        work.Result = CpuRows.Of(gx, 0);
        work.Sums = (float*)Tensors.TensorMemory.Pointer(sums);
        RowParallel.Run(moments.size(0), work.Grain, &GradientGroups, &work);
        GC.KeepAlive((x, gradient, moments, settings));
        return (gx.MoveToOuterDisposeScope(), sums.MoveToOuterDisposeScope());
    }

    private static void FormGroups(void* state, long from, long to)
    {
        ref var work = ref *(Work*)state;
        var scratch = (float*)NativeMemory.Alloc(ScratchPieces * PieceElements, sizeof(float));
        for (var group = from; group < to; group++)
        {
            Measure(ref work, group, scratch);
            for (var channel = 0; channel < work.Channels; channel++)
            {
                var start = (group * work.Width) + (channel * work.Positions);
                FormChannel(ref work, (start, start, work.Positions), work.Scale(group, channel), work.Shift(group, channel), scratch);
            }
        }

        NativeMemory.Free(scratch);
    }

    private static void FormStrips(void* state, long from, long to)
    {
        ref var work = ref *(Work*)state;
        var scratch = (float*)NativeMemory.Alloc(ScratchPieces * PieceElements, sizeof(float));
        for (var each = from; each < to; each++)
        {
            var (group, channel) = (each / work.Channels, (int)(each % work.Channels));
            FormChannel(ref work, ((each * work.Positions) + work.From, each * work.Count, work.Count), work.Scale(group, channel), work.Shift(group, channel), scratch);
        }

        NativeMemory.Free(scratch);
    }

    private static void MeasureGroups(void* state, long from, long to)
    {
        ref var work = ref *(Work*)state;
        var scratch = (float*)NativeMemory.Alloc(ScratchPieces * PieceElements, sizeof(float));
        for (var group = from; group < to; group++)
        {
            Measure(ref work, group, scratch);
        }

        NativeMemory.Free(scratch);
    }

    private static void Measure(ref Work work, long group, float* scratch)
    {
        var (start, count) = (group * work.Width, work.Width);
        double sum = 0, squares = 0;
        for (long at = 0; at < count; at += PieceElements)
        {
            sum += TensorPrimitives.Sum(work.Input.ReadAt(start + at, Piece(count, at), scratch));
        }

        var mean = (float)(sum / count);
        var centred = new Span<float>(scratch + PieceElements, PieceElements);
        for (long at = 0; at < count; at += PieceElements)
        {
            var x = work.Input.ReadAt(start + at, Piece(count, at), scratch);
            TensorPrimitives.Subtract(x, mean, centred);
            squares += TensorPrimitives.SumOfSquares<float>(centred[..x.Length]);
        }

        var inverse = (float)(1 / Math.Sqrt((squares / count) + work.Epsilon));
        (work.Moments[2 * group], work.Moments[(2 * group) + 1]) = (mean, inverse);
    }

    private static void FormChannel(ref Work work, (long Input, long Result, long Count) place, float scale, float shift, float* scratch)
    {
        var sigmoid = new Span<float>(scratch + PieceElements, PieceElements);
        for (long at = 0; at < place.Count; at += PieceElements)
        {
            var x = work.Input.ReadAt(place.Input + at, Piece(place.Count, at), scratch);
            var y = work.Result.TargetAt(place.Result + at, x.Length, scratch + (2 * PieceElements));
            TensorPrimitives.Multiply(x, scale, y);
            TensorPrimitives.Add(y, shift, y);
            if (work.Activates)
            {
                TensorPrimitives.Sigmoid<float>(y, sigmoid);
                TensorPrimitives.Multiply(y, sigmoid[..x.Length], y);
            }

            work.Result.WriteAt(place.Result + at, y);
        }
    }

    private static void GradientGroups(void* state, long from, long to)
    {
        ref var work = ref *(Work*)state;
        var scratch = (float*)NativeMemory.Alloc(ScratchPieces * PieceElements, sizeof(float));
        for (var group = from; group < to; group++)
        {
            var (mean, inverse) = (work.Moments[2 * group], work.Moments[(2 * group) + 1]);
            double plain = 0, along = 0;
            for (var channel = 0; channel < work.Channels; channel++)
            {
                var sums = work.Sums + (2 * ((group * work.Channels) + channel));
                ChannelSums(ref work, group, channel, sums, scratch);
                var weight = work.WeightOf(group, channel);
                plain += weight * (double)sums[0];
                along += weight * (double)sums[1];
            }

            // With n the normed input and g the gradient behind the weight: r (w g − mean(w g) − n mean(w g n)).
            var (meanPlain, meanAlong) = ((float)(plain / work.Width), (float)(along / work.Width));
            var byInput = -inverse * inverse * meanAlong;
            var constant = -(inverse * meanPlain) - (byInput * mean);
            for (var channel = 0; channel < work.Channels; channel++)
            {
                var start = (group * work.Width) + (channel * work.Positions);
                var byGradient = inverse * work.WeightOf(group, channel);
                for (long at = 0; at < work.Positions; at += PieceElements)
                {
                    var x = work.Input.ReadAt(start + at, Piece(work.Positions, at), scratch);
                    var gz = Behind(ref work, group, channel, start + at, x, scratch);
                    var gx = work.Result.TargetAt(start + at, x.Length, scratch + (3 * PieceElements));
                    TensorPrimitives.Multiply(gz, byGradient, gz);
                    TensorPrimitives.MultiplyAdd(x, byInput, gz, gz);
                    TensorPrimitives.Add(gz, constant, gx);
                    work.Result.WriteAt(start + at, gx);
                }
            }
        }

        NativeMemory.Free(scratch);
    }

    /// <summary>Sums over a channel's positions of the gradient behind the norm's weight, and of that times the normed input.</summary>
    private static void ChannelSums(ref Work work, long group, int channel, float* sums, float* scratch)
    {
        var (mean, inverse) = (work.Moments[2 * group], work.Moments[(2 * group) + 1]);
        var start = (group * work.Width) + (channel * work.Positions);
        var normed = new Span<float>(scratch + (3 * PieceElements), PieceElements);
        double plain = 0, along = 0;
        for (long at = 0; at < work.Positions; at += PieceElements)
        {
            var x = work.Input.ReadAt(start + at, Piece(work.Positions, at), scratch);
            var gz = Behind(ref work, group, channel, start + at, x, scratch);
            TensorPrimitives.Subtract(x, mean, normed);
            plain += TensorPrimitives.Sum<float>(gz);
            along += inverse * (double)TensorPrimitives.Dot<float>(gz, normed[..x.Length]);
        }

        (sums[0], sums[1]) = ((float)plain, (float)along);
    }

    /// <summary>The gradient behind the norm's weight and bias, in the second piece of the scratch memory: through SiLU where it acts, σ + z σ (1 − σ).</summary>
    private static Span<float> Behind(ref Work work, long group, int channel, long offset, ReadOnlySpan<float> x, float* scratch)
    {
        var gz = new Span<float>(scratch + PieceElements, x.Length);
        var other = new Span<float>(scratch + (2 * PieceElements), x.Length);
        if (!work.Activates)
        {
            work.Gradient.ReadAt(offset, x.Length, scratch + (2 * PieceElements)).CopyTo(gz);
            return gz;
        }

        TensorPrimitives.Multiply(x, work.Scale(group, channel), gz);
        TensorPrimitives.Add(gz, work.Shift(group, channel), gz);
        TensorPrimitives.Sigmoid<float>(gz, other);

        // z (1 − σ) + 1, times σ.
        var slope = new Span<float>(scratch + (3 * PieceElements), x.Length);
        TensorPrimitives.Subtract(1f, other, slope);
        TensorPrimitives.Multiply(gz, slope, gz);
        TensorPrimitives.Add(gz, 1f, gz);
        TensorPrimitives.Multiply(gz, other, gz);
        TensorPrimitives.Multiply(gz, work.Gradient.ReadAt(offset, x.Length, scratch + (2 * PieceElements)), gz);
        return gz;
    }

    private static int Piece(long count, long at) => (int)Math.Min(PieceElements, count - at);

    private struct Work
    {
        public CpuRows Input;
        public CpuRows Gradient;
        public CpuRows Result;
        public float* Moments;
        public float* Sums;
        public float* Weight;
        public float* Bias;
        public long Groups;
        public long Width;
        public long Positions;
        public long From;
        public long Count;
        public int Channels;
        public double Epsilon;
        public bool Activates;

        public static Work Of(Tensor x, Settings settings, Tensor moments)
        {
            var channels = x.size(1);
            return new Work
            {
                Input = CpuRows.Of(x, 0),
                Moments = (float*)Tensors.TensorMemory.Pointer(moments),
                Weight = (float*)Tensors.TensorMemory.Pointer(settings.Weight),
                Bias = (float*)Tensors.TensorMemory.Pointer(settings.Bias),
                Groups = settings.Groups,
                Width = x.NumberOfElements / Math.Max(1, moments.size(0)),
                Positions = x.NumberOfElements / Math.Max(1, x.size(0) * channels),
                Channels = (int)(channels / settings.Groups),
                Epsilon = settings.Epsilon,
                Activates = settings.Activates,
            };
        }

        // A thread is worth some ten microseconds.
        public readonly long Grain => Math.Max(1, (1 << 14) / Math.Max(1, Width));

        public readonly float WeightOf(long group, int channel) => Weight[(group % Groups * Channels) + channel];

        public readonly float Scale(long group, int channel) => Moments[(2 * group) + 1] * WeightOf(group, channel);

        public readonly float Shift(long group, int channel) => Bias[(group % Groups * Channels) + channel] - (Moments[2 * group] * Scale(group, channel));
    }
}
