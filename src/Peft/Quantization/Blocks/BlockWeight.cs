using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Models;
using Peft.Models.Gguf;
using Peft.Quantization.Checkpoints;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Quantization.Blocks;

/// <summary>A weight as the blocks of a GGUF file, of whichever of its types; those of a layer's experts as one, of which each is a part.</summary>
public sealed unsafe class BlockWeight : PackedWeight
{
    private readonly GgufType _type;
    private readonly BlockKernels? _kernels;
    private readonly Tensor _blocks;
    private readonly BlockWeight[] _experts = [];

    private BlockWeight(GgufType type, Tensor blocks, ScalarType dataType, PackedPlace place)
        : base([.. blocks.shape[..^1], blocks.size(-1) / type.BlockBytes * type.BlockValues], dataType, place.Buffer)
    {
        _type = type;
        _kernels = BlockKernels.Find(type.Name);
        _blocks = blocks.to(place.Device).contiguous().DetachFromDisposeScope();
        if (_blocks.dim() == 3)
        {
            using var scope = NewDisposeScope();
            _experts = [.. Enumerable.Range(0, (int)_blocks.size(0)).Select(expert => new BlockWeight(type, _blocks.select(0, expert), dataType, place))];
        }
    }

    /// <inheritdoc/>
    public override string Kind => _type.Name;

    /// <inheritdoc/>
    public override long Bytes => _blocks.NumberOfElements;

    /// <inheritdoc/>
    public override Device Device => _blocks.device;

    /// <summary>Quantises a weight.</summary>
    /// <param name="values">[outputs, inputs] or [experts, outputs, inputs], floating point.</param>
    /// <param name="type">The type's name in GGUF files, such as <c>Q4_K</c>, whose blocks fill a row.</param>
    /// <param name="buffer">Where the model's packed weights are unpacked to.</param>
    /// <param name="isTransposed">Whether the parameter's layout is [inputs, outputs].</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTypeNotSupported</c>: blocks that are only read, or that don't fill a row.</exception>
    public static BlockWeight Quantize(Tensor values, string type, UnpackBuffer buffer, bool isTransposed = false)
    {
        ArgumentNullException.ThrowIfNull(values);
        using var scope = NewDisposeScope();
        var format = GgufType.Named(type);
        return new BlockWeight(format, Blocks(values, format), values.dtype, new PackedPlace(buffer, isTransposed, values.device)) { IsTransposed = isTransposed };
    }

    /// <summary>Takes what a file holds.</summary>
    /// <param name="packed">A tensor of blocks, of the caller's dispose scope.</param>
    /// <param name="buffer">Where the model's packed weights are unpacked to.</param>
    /// <param name="isTransposed">Whether the parameter's layout is [inputs, outputs].</param>
    /// <param name="device">Where it goes.</param>
    internal static BlockWeight Of(GgufPacked packed, UnpackBuffer buffer, bool isTransposed, Device device) =>
        new(packed.Type, packed.Blocks, packed.DataType, new PackedPlace(buffer, isTransposed, device)) { IsTransposed = isTransposed };

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        using var scope = NewDisposeScope();
        if (_kernels is not null && Device.type == DeviceType.CPU && CpuRows.Serves(target))
        {
            _kernels.Unpack(_blocks.view(-1, _blocks.size(-1)), Shape[^1], target);
            return;
        }

        var blocks = _blocks.cpu();
        var values = empty([.. Shape], ScalarType.Float32);
        Dequantise(TensorMemory.Pointer(blocks), (float*)TensorMemory.Pointer(values), blocks.NumberOfElements / _type.BlockBytes);
        GC.KeepAlive(blocks);
        target.copy_(values.view(target.shape));
    }

    /// <inheritdoc/>
    internal override PackedWeight? Expert(int index) => _experts.Length > 0 ? _experts[index] : null;

    /// <inheritdoc/>
    internal override Tensor? Blocks(string type) => type == _type.Name ? _blocks.alias() : null;

    /// <inheritdoc/>
    internal override StepRows? Rows(ScalarType type) => Device.type == DeviceType.CPU ? _kernels?.Rows(_blocks, Shape[^1], type) : null;

    /// <inheritdoc/>
    internal override bool RowProduct(Tensor x, Tensor y) => Device.type == DeviceType.CPU && _kernels?.TryMultiply(_blocks, x, y) == true;

    /// <inheritdoc/>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTypeNotSupported</c>: blocks that are only read.</exception>
    public override PackedWeight Repack(Tensor values)
    {
        ArgumentNullException.ThrowIfNull(values);
        using var scope = NewDisposeScope();
        return new BlockWeight(_type, Blocks(values, _type), DataType, new PackedPlace(Buffer, IsTransposed, Device)) { IsTransposed = IsTransposed };
    }

    /// <inheritdoc/>
    internal override PackedWeight Moved(Func<Tensor, Tensor> move)
    {
        ArgumentNullException.ThrowIfNull(move);
        var blocks = move(_blocks);
        return new BlockWeight(_type, blocks, DataType, new PackedPlace(Buffer, IsTransposed, blocks.device)) { IsTransposed = IsTransposed };
    }

    /// <inheritdoc/>
    protected override void Free()
    {
        Array.ForEach(_experts, static expert => expert.Dispose());
        _blocks.Dispose();
    }

    private static Tensor Blocks(Tensor values, GgufType type)
    {
        if (values.dim() == 3)
        {
            return stack(Enumerable.Range(0, (int)values.size(0)).Select(expert => Blocks(values.select(0, expert), type)));
        }

        if (type.Writer is null || values.size(1) % type.BlockValues != 0)
        {
            throw new NotSupportedByPeftException("GgufTypeNotSupported", $"Weights of rows of {values.size(1)} are not quantised to {type.Name}: Peft only reads such blocks, or they don't fill a row.")
            {
                Target = type.Name,
                RecommendedAction = "Merge into the unpacked weights, or onto those of the original model: Merge-LoraAdapter -Onto Unpacked or Original.",
            };
        }

        var bytes = GgufWriter.Quantized(values.to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray(), type);
        return tensor(bytes).view(values.size(0), -1);
    }

    private void Dequantise(byte* from, float* to, long blocks)
    {
        const int BlocksAPiece = 4096;
        Parallel.For(0, (blocks + BlocksAPiece - 1) / BlocksAPiece, piece =>
        {
            for (var block = piece * BlocksAPiece; block < Math.Min(blocks, (piece + 1) * BlocksAPiece); block++)
            {
                _type.Reader!(new ReadOnlySpan<byte>(from + (block * _type.BlockBytes), _type.BlockBytes), new Span<float>(to + (block * _type.BlockValues), _type.BlockValues));
            }
        });
    }
}
