using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Peft.Models.Layers;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary><see cref="GroupNormKernel"/> for images that lie position by position: a few positions at a time, all channels side by side.</summary>
internal static unsafe class PositionNormKernel
{
    // A piece is some positions together, so that few channels fill vectors too; a block is what stays in a processor's cache.
    private const int PieceElements = 1024;
    private const int BlockElements = 1 << 15;
    private const int ScratchPieces = 4;

    /// <summary>As <see cref="GroupNormKernel.Form"/>.</summary>
    public static (Tensor Result, Tensor Moments) Form(Tensor x, GroupNormKernel.Settings settings)
    {
        var moments = Moments(x, settings);
        using var scope = NewDisposeScope();
        return (Strip(x, moments, settings, 0, x.size(2)).MoveToOuterDisposeScope(), moments);
    }

    /// <summary>As <see cref="GroupNormKernel.Moments"/>.</summary>
    public static Tensor Moments(Tensor x, GroupNormKernel.Settings settings)
    {
        var moments = empty([x.size(0) * settings.Groups, 2], ScalarType.Float32);
        var work = new Work(x, settings, moments, 0, x.size(2));
        work.Sums = (float*)NativeMemory.Alloc((nuint)(work.Blocks * work.Channels), sizeof(float));
        RowParallel.Run(work.Blocks, 1, &SumBlocks, &work);
        for (long group = 0; group < moments.size(0); group++)
        {
            work.Moments[2 * group] = (float)work.MeanOf(group);
        }

        RowParallel.Run(work.Blocks, 1, &SquareBlocks, &work);
        for (long group = 0; group < moments.size(0); group++)
        {
            work.Moments[(2 * group) + 1] = (float)(1 / Math.Sqrt(work.MeanOf(group) + settings.Epsilon));
        }

        NativeMemory.Free(work.Sums);
        GC.KeepAlive((x, settings));
        return moments;
    }

    /// <summary>As <see cref="GroupNormKernel.Strip"/>.</summary>
    public static Tensor Strip(Tensor x, Tensor moments, GroupNormKernel.Settings settings, long top, long count)
    {
        var y = ImageLayout.Empty([x.size(0), x.size(1), count, x.size(3)], x.dtype, x.device);
        var work = new Work(x, settings, moments, top, count) { Result = Rows(y) };
        RowParallel.Run(work.Blocks, 1, &FormBlocks, &work);
        GC.KeepAlive((x, moments, settings));
        return y;
    }

    /// <summary>As <see cref="GroupNormKernel.Gradients"/>.</summary>
    public static (Tensor Input, Tensor Channels) Gradients(Tensor x, Tensor gradient, Tensor moments, GroupNormKernel.Settings settings)
    {
        using var scope = NewDisposeScope();
        var (gx, channels) = (ImageLayout.Empty(x.shape, x.dtype, x.device), empty([x.size(0), x.size(1), 2], ScalarType.Float32));
        var work = new Work(x, settings, moments, 0, x.size(2)) { Result = Rows(gx), Gradient = Rows(gradient) };
        work.Sums = (float*)NativeMemory.Alloc((nuint)(2 * work.Blocks * work.Channels), sizeof(float));
        work.Constants = (float*)NativeMemory.Alloc(2 * (nuint)moments.size(0), sizeof(float));
        RowParallel.Run(work.Blocks, 1, &GradientSums, &work);
        work.Reduce((float*)Tensors.TensorMemory.Pointer(channels));
        RowParallel.Run(work.Blocks, 1, &GradientBlocks, &work);
        NativeMemory.Free(work.Sums);
        NativeMemory.Free(work.Constants);
        GC.KeepAlive((x, gradient, moments, settings));
        return (gx.MoveToOuterDisposeScope(), channels.MoveToOuterDisposeScope());
    }

    private static CpuRows Rows(Tensor image)
    {
        using var positions = ImageLayout.Positions(image);
        return CpuRows.Of(positions, 0);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SumBlocks(void* state, long from, long to)
    {
        using var turn = new Turn((Work*)state);
        for (var block = from; block < to; block++)
        {
            turn.Begin(block);
            while (turn.Next() is { Length: > 0 } x)
            {
                var sum = turn.Tile(0)[..x.Length];
                TensorPrimitives.Add(sum, x, sum);
            }

            turn.Fold(0, 0, 1);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SquareBlocks(void* state, long from, long to)
    {
        using var turn = new Turn((Work*)state);
        for (var block = from; block < to; block++)
        {
            turn.Begin(block);
            turn.Fill(1, &Work.Mean);
            while (turn.Next() is { Length: > 0 } x)
            {
                var sum = turn.Tile(0)[..x.Length];
                var centred = turn.Scratch(1, x.Length);
                TensorPrimitives.Subtract(x, turn.Tile(1)[..x.Length], centred);
                TensorPrimitives.MultiplyAdd(centred, centred, sum, sum);
            }

            turn.Fold(0, 0, 1);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FormBlocks(void* state, long from, long to)
    {
        var work = (Work*)state;
        using var turn = new Turn(work);
        for (var block = from; block < to; block++)
        {
            turn.Begin(block);
            turn.FillScaleAndShift();
            while (turn.Next() is { Length: > 0 } x)
            {
                var y = work->Result.TargetAt(turn.ResultOffset, x.Length, turn.Scratch(1));
                TensorPrimitives.MultiplyAdd(x, turn.Tile(1)[..x.Length], turn.Tile(2)[..x.Length], y);
                if (work->Activates)
                {
                    var sigmoid = turn.Scratch(2, x.Length);
                    TensorPrimitives.Sigmoid<float>(y, sigmoid);
                    TensorPrimitives.Multiply(y, sigmoid, y);
                }

                work->Result.WriteAt(turn.ResultOffset, y);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void GradientSums(void* state, long from, long to)
    {
        using var turn = new Turn((Work*)state);
        for (var block = from; block < to; block++)
        {
            turn.Begin(block);
            turn.FillScaleAndShift();
            turn.Fill(3, &Work.Mean);
            turn.Fill(4, &Work.Inverse);
            while (turn.Next() is { Length: > 0 } x)
            {
                var gz = turn.Behind(x);
                var normed = turn.Scratch(2, x.Length);
                var plain = turn.Tile(0)[..x.Length];
                var along = turn.Tile(5)[..x.Length];
                TensorPrimitives.Add(plain, gz, plain);
                TensorPrimitives.Subtract(x, turn.Tile(3)[..x.Length], normed);
                TensorPrimitives.Multiply(normed, turn.Tile(4)[..x.Length], normed);
                TensorPrimitives.MultiplyAdd(gz, normed, along, along);
            }

            turn.Fold(0, 0, 2);
            turn.Fold(5, 1, 2);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void GradientBlocks(void* state, long from, long to)
    {
        var work = (Work*)state;
        using var turn = new Turn(work);
        for (var block = from; block < to; block++)
        {
            turn.Begin(block);
            turn.FillScaleAndShift();
            turn.Fill(3, &Work.ByInput);
            turn.Fill(4, &Work.Constant);
            while (turn.Next() is { Length: > 0 } x)
            {
                var gz = turn.Behind(x);
                var gx = work->Result.TargetAt(turn.ResultOffset, x.Length, turn.Scratch(2));
                TensorPrimitives.MultiplyAdd(gz, turn.Tile(1)[..x.Length], turn.Tile(4)[..x.Length], gz);
                TensorPrimitives.MultiplyAdd(x, turn.Tile(3)[..x.Length], gz, gx);
                work->Result.WriteAt(turn.ResultOffset, gx);
            }
        }
    }

    /// <summary>A walk over the pieces of blocks, with a value for each element of a piece in tiles: those of the channels, again for each position.</summary>
    private unsafe ref struct Turn
    {
        private const int Tiles = 6;

        private readonly Work* _work;
        private readonly float* _memory;
        private readonly int _width;
        private long _row;
        private long _block;
        private long _at;
        private long _end;

        public Turn(Work* work)
        {
            _work = work;
            _width = Math.Max(1, PieceElements / work->Channels) * work->Channels;
            _memory = (float*)NativeMemory.Alloc((nuint)((Tiles + ScratchPieces) * _width), sizeof(float));
        }

        /// <summary>Where the piece's result goes.</summary>
        public long ResultOffset { get; private set; }

        public readonly Span<float> Tile(int index) => new(_memory + (index * _width), _width);

        public readonly float* Scratch(int index) => _memory + ((Tiles + index) * _width);

        public readonly Span<float> Scratch(int index, int count) => new(Scratch(index), count);

        /// <summary>Begins a block; the sums in tiles 0 and 5 are zero.</summary>
        public void Begin(long block)
        {
            (_block, _row) = (block, block / _work->BlocksInRow);
            _at = block % _work->BlocksInRow * _work->BlockWidth;
            _end = Math.Min(_work->RowElements, _at + _work->BlockWidth);
            Tile(0).Clear();
            Tile(5).Clear();
        }

        /// <summary>The next piece; empty at the block's end.</summary>
        public ReadOnlySpan<float> Next()
        {
            var count = (int)Math.Min(_width, _end - _at);
            if (count <= 0)
            {
                return default;
            }

            ResultOffset = (_row * _work->RowElements) + _at;
            var x = _work->Input.ReadAt((_row * _work->InputElements) + _work->InputFrom + _at, count, Scratch(0));
            _at += count;
            return x;
        }

        /// <summary>Gives each channel its value, at every position of a tile.</summary>
        public readonly void Fill(int tile, delegate*<Work*, long, int, float> value)
        {
            var values = Tile(tile);
            for (var channel = 0; channel < _work->Channels; channel++)
            {
                values[channel] = value(_work, _row, channel);
            }

            for (var at = _work->Channels; at < _width; at += _work->Channels)
            {
                values[.._work->Channels].CopyTo(values[at..]);
            }
        }

        /// <summary>What an input is multiplied by, in tile 1, and what is added then, in tile 2.</summary>
        public readonly void FillScaleAndShift()
        {
            Fill(1, &Work.Scale);
            Fill(2, &Work.Shift);
        }

        /// <summary>Adds a tile's positions up and keeps that as one of the block's sums.</summary>
        public readonly void Fold(int tile, int index, int count)
        {
            var values = Tile(tile);
            var sum = values[.._work->Channels];
            for (var at = _work->Channels; at < _width; at += _work->Channels)
            {
                TensorPrimitives.Add(sum, values.Slice(at, _work->Channels), sum);
            }

            sum.CopyTo(new Span<float>(_work->Sums + (((_block * count) + index) * _work->Channels), _work->Channels));
        }

        /// <summary>The gradient behind the norm's weight and bias: through SiLU where it acts, σ + z σ (1 − σ).</summary>
        public readonly Span<float> Behind(ReadOnlySpan<float> x)
        {
            var gz = Scratch(1, x.Length);
            var other = Scratch(2, x.Length);
            var g = _work->Gradient.ReadAt(ResultOffset, x.Length, Scratch(3));
            if (!_work->Activates)
            {
                g.CopyTo(gz);
                return gz;
            }

            TensorPrimitives.MultiplyAdd(x, Tile(1)[..x.Length], Tile(2)[..x.Length], gz);
            TensorPrimitives.Sigmoid<float>(gz, other);

            // z − z σ + 1, times σ.
            var scaled = Scratch(3, x.Length);
            TensorPrimitives.Multiply(g, other, scaled);
            TensorPrimitives.Subtract(1f, other, other);
            TensorPrimitives.Multiply(gz, other, gz);
            TensorPrimitives.Add(gz, 1f, gz);
            TensorPrimitives.Multiply(gz, scaled, gz);
            return gz;
        }

        public readonly void Dispose() => NativeMemory.Free(_memory);
    }

    private struct Work
    {
        public CpuRows Input;
        public CpuRows Gradient;
        public CpuRows Result;
        public float* Sums;
        public float* Constants;
        public float* Moments;
        public float* Weight;
        public float* Bias;
        public long InputElements;
        public long InputFrom;
        public long RowElements;
        public long BlockWidth;
        public long BlocksInRow;
        public long Blocks;
        public long GroupElements;
        public int Channels;
        public int Groups;
        public bool Activates;

        private readonly long _rows;

        public Work(Tensor x, GroupNormKernel.Settings settings, Tensor moments, long top, long count)
        {
            (_rows, Channels, Groups) = (x.size(0), (int)x.size(1), (int)settings.Groups);
            Input = Rows(x);
            Moments = (float*)Tensors.TensorMemory.Pointer(moments);
            Weight = (float*)Tensors.TensorMemory.Pointer(settings.Weight);
            Bias = (float*)Tensors.TensorMemory.Pointer(settings.Bias);
            var line = x.size(3) * Channels;
            (InputElements, InputFrom, RowElements) = (x.size(2) * line, top * line, count * line);
            BlockWidth = Math.Max(1, BlockElements / Channels) * Channels;
            BlocksInRow = (RowElements + BlockWidth - 1) / BlockWidth;
            Blocks = _rows * BlocksInRow;
            GroupElements = InputElements / Groups;
            Activates = settings.Activates;
        }

        /// <summary>The mean over a group of what blocks added up.</summary>
        public readonly double MeanOf(long group)
        {
            var (row, own) = (group / Groups, Channels / Groups);
            double sum = 0;
            for (var block = row * BlocksInRow; block < (row + 1) * BlocksInRow; block++)
            {
                for (var channel = 0; channel < own; channel++)
                {
                    sum += Sums[(block * Channels) + (group % Groups * own) + channel];
                }
            }

            return sum / GroupElements;
        }

        /// <summary>Adds the blocks' sums of gradients up to those of channels, and gives each group what its inputs' gradients need of them.</summary>
        /// <param name="channels">[rows, channels, 2].</param>
        public readonly void Reduce(float* channels)
        {
            var own = Channels / Groups;
            for (long group = 0; group < _rows * Groups; group++)
            {
                double plain = 0, along = 0;
                for (var i = 0; i < own; i++)
                {
                    var channel = (int)(group % Groups * own) + i;
                    double sum = 0, product = 0;
                    for (var block = group / Groups * BlocksInRow; block < ((group / Groups) + 1) * BlocksInRow; block++)
                    {
                        sum += Sums[(2 * block * Channels) + channel];
                        product += Sums[(((2 * block) + 1) * Channels) + channel];
                    }

                    var place = channels + (2 * ((group / Groups * Channels) + channel));
                    (place[0], place[1]) = ((float)sum, (float)product);
                    plain += Weight[channel] * sum;
                    along += Weight[channel] * product;
                }

                // With n the normed input and g the gradient behind the weight: r (w g − mean(w g) − n mean(w g n)).
                var (mean, inverse) = (Moments[2 * group], Moments[(2 * group) + 1]);
                var byInput = -inverse * inverse * (along / GroupElements);
                Constants[2 * group] = (float)byInput;
                Constants[(2 * group) + 1] = (float)(-(inverse * (plain / GroupElements)) - (byInput * mean));
            }
        }

        public static float Mean(Work* work, long row, int channel) => work->Moments[2 * work->Group(row, channel)];

        public static float Inverse(Work* work, long row, int channel) => work->Moments[(2 * work->Group(row, channel)) + 1];

        public static float Scale(Work* work, long row, int channel) => Inverse(work, row, channel) * work->Weight[channel];

        public static float Shift(Work* work, long row, int channel) => work->Bias[channel] - (Mean(work, row, channel) * Scale(work, row, channel));

        public static float ByInput(Work* work, long row, int channel) => work->Constants[2 * work->Group(row, channel)];

        public static float Constant(Work* work, long row, int channel) => work->Constants[(2 * work->Group(row, channel)) + 1];

        private readonly long Group(long row, int channel) => (row * Groups) + (channel / (Channels / Groups));
    }
}
