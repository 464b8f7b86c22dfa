using Peft.Engine;
using Peft.Models;
using Peft.Quantization.Checkpoints;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>A weight as eight-bit floats (E4M3) with a scale for each block of rows and columns, as DeepSeek-V3's checkpoints hold it.</summary>
public sealed unsafe class Float8Weight : PackedWeight
{
    private const float Largest = 448;
    private readonly Tensor _codes;
    private readonly Tensor _scales;
    private readonly long _blockRows;
    private readonly long _blockColumns;

    private Float8Weight(Tensor codes, Tensor scales, (long Rows, long Columns) block, ScalarType dataType, PackedPlace place)
        : base(codes.shape, dataType, place.Buffer)
    {
        _codes = codes.to(place.Device).DetachFromDisposeScope();
        _scales = scales.to(place.Device).DetachFromDisposeScope();
        (_blockRows, _blockColumns) = block;
        IsTransposed = place.IsTransposed;
    }

    /// <inheritdoc/>
    public override string Kind => "fp8";

    /// <inheritdoc/>
    public override long Bytes => _codes.NumberOfElements + (_scales.NumberOfElements * _scales.ElementSize);

    /// <inheritdoc/>
    public override Device Device => _codes.device;

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        using var scope = NewDisposeScope();
        var (codes, scales) = (_codes.cpu(), _scales.cpu());
        var here = target.device_type == TorchSharp.DeviceType.CPU ? target : empty(target.shape, target.dtype);
        fixed (float* table = Float8.E4M3)
        {
            var work = new Work
            {
                Codes = TensorMemory.Pointer(codes), Scales = (float*)TensorMemory.Pointer(scales), Target = FloatMemory.Of(here), Table = table, Stored = DataType,
                Width = Shape[1], BlockRows = _blockRows, BlockColumns = _blockColumns, ScaleColumns = scales.size(1),
            };
            RowParallel.Run(Shape[0], Math.Max(1, (1 << 15) / Shape[1]), &UnpackRows, &work);
        }

        if (!ReferenceEquals(here, target))
        {
            target.copy_(here);
        }
    }

    /// <inheritdoc/>
    public override PackedWeight Repack(Tensor values)
    {
        using var scope = NewDisposeScope();
        var given = values.to(ScalarType.Float32).cpu().contiguous();
        var (height, width) = (given.size(0), given.size(1));
        var scales = zeros(_scales.shape, ScalarType.Float32);
        var codes = empty([height, width], ScalarType.Byte);
        var from = (float*)TensorMemory.Pointer(given);
        var to = TensorMemory.Pointer(codes);
        for (long row = 0; row < scales.size(0); row++)
        {
            for (long column = 0; column < scales.size(1); column++)
            {
                var (top, left) = (row * _blockRows, column * _blockColumns);
                var (rows, columns) = (Math.Min(_blockRows, height - top), Math.Min(_blockColumns, width - left));
                var scale = given.narrow(0, top, rows).narrow(1, left, columns).abs().max().item<float>() / Largest;
                scales[row, column] = scale;
                for (var i = top; i < top + rows; i++)
                {
                    for (var j = left; j < left + columns; j++)
                    {
                        to[(i * width) + j] = scale == 0 ? (byte)0 : Encode(from[(i * width) + j] / scale);
                    }
                }
            }
        }

        return Of(codes, scales, (_blockRows, _blockColumns), DataType, new PackedPlace(Buffer, IsTransposed, Device));
    }

    /// <inheritdoc/>
    internal override PackedWeight Moved(Func<Tensor, Tensor> move)
    {
        var codes = move(_codes);
        return Of(codes, move(_scales), (_blockRows, _blockColumns), DataType, new PackedPlace(Buffer, IsTransposed, codes.device));
    }

    /// <summary>Takes what a file holds.</summary>
    /// <param name="codes">[outputs, inputs], uint8.</param>
    /// <param name="scales">[blocks of rows, blocks of columns], float32: what codes are multiplied with.</param>
    /// <param name="block">Rows and columns of a block.</param>
    /// <param name="dataType">The type products are rounded to.</param>
    /// <param name="place">Where it goes.</param>
    internal static Float8Weight Of(Tensor codes, Tensor scales, (long Rows, long Columns) block, ScalarType dataType, PackedPlace place) => new(codes, scales, block, dataType, place);

    /// <inheritdoc/>
    protected override void Free()
    {
        _codes.Dispose();
        _scales.Dispose();
    }

    /// <summary>The nearest code, of two that are as near the even one; the largest where a number lies beyond.</summary>
    private static byte Encode(float value)
    {
        const int largest = 0x7E;
        var magnitude = MathF.Abs(value);
        int low = 0, high = largest;
        while (high - low > 1)
        {
            var middle = (low + high) / 2;
            (low, high) = Float8.E4M3[middle] <= magnitude ? (middle, high) : (low, middle);
        }

        var (below, above) = (magnitude - Float8.E4M3[low], Float8.E4M3[high] - magnitude);
        var code = below < above || (below == above && low % 2 == 0) ? low : high;
        return (byte)(value < 0 ? code | 0x80 : code);
    }

    private static void UnpackRows(void* state, long from, long to)
    {
        var work = (Work*)state;
        Span<float> scratch = stackalloc float[(int)Math.Min(work->BlockColumns, work->Width)];
        for (var row = from; row < to; row++)
        {
            for (long left = 0; left < work->Width; left += work->BlockColumns)
            {
                var (start, count) = ((row * work->Width) + left, (int)Math.Min(work->BlockColumns, work->Width - left));
                var scale = work->Scales[(row / work->BlockRows * work->ScaleColumns) + (left / work->BlockColumns)];
                var values = work->Target.Target(start, scratch[..count]);
                for (var i = 0; i < count; i++)
                {
                    values[i] = work->Table[work->Codes[start + i]] * scale;
                }

                work->Target.Write(start, values, work->Stored);
            }
        }
    }

    private struct Work
    {
        public byte* Codes;
        public float* Scales;
        public float* Table;
        public FloatMemory Target;
        public ScalarType Stored;
        public long Width;
        public long BlockRows;
        public long BlockColumns;
        public long ScaleColumns;
    }
}
