using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>A weight as four-bit numbers in blocks, as bitsandbytes' <c>Linear4bit</c> holds it; the scales may be quantised in turn.</summary>
public sealed class FourBitWeight : PackedWeight
{
    private const int NestedBlockSize = 256;
    private readonly Tensor packed;
    private readonly Tensor scales;
    private readonly Tensor? nestedScales;
    private readonly float nestedOffset;

    private FourBitWeight(IReadOnlyList<long> shape, ScalarType dataType, UnpackBuffer buffer, FourBitType type, int blockSize, Tensor packed, Tensor scales, Tensor? nestedScales, float nestedOffset)
        : base(shape, dataType, buffer)
    {
        Type = type;
        BlockSize = blockSize;
        this.packed = packed.DetachFromDisposeScope();
        this.scales = scales.DetachFromDisposeScope();
        this.nestedScales = nestedScales?.DetachFromDisposeScope();
        this.nestedOffset = nestedOffset;
    }

    /// <summary>NF4 or FP4.</summary>
    public FourBitType Type { get; }

    /// <summary>Numbers of a block.</summary>
    public int BlockSize { get; }

    /// <summary>Whether the scales are quantised in turn.</summary>
    public bool HasNestedScales => nestedScales is not null;

    /// <summary>Two numbers a byte, the first in the high half: [half of the elements, rounded up, 1], uint8.</summary>
    public Tensor Packed => packed;

    /// <summary>A scale for each block: float32, or uint8 where they are quantised in turn.</summary>
    public Tensor Scales => scales;

    /// <summary>A scale for each block of 256 scales, float32, or null.</summary>
    public Tensor? NestedScales => nestedScales;

    /// <summary>The mean of the scales, which was subtracted before they were quantised.</summary>
    public float NestedOffset => nestedOffset;

    /// <inheritdoc/>
    public override string Kind => Type.Name;

    /// <inheritdoc/>
    public override long Bytes => Size(packed) + Size(scales) + (nestedScales is null ? 0 : Size(nestedScales));

    /// <inheritdoc/>
    public override Device Device => packed.device;

    /// <summary>Quantises a weight.</summary>
    /// <param name="values">[outputs, inputs], floating point.</param>
    /// <param name="config">Type, block size, whether scales are quantised in turn, compute type.</param>
    /// <param name="buffer">Where the model's packed weights are unpacked to.</param>
    /// <param name="isTransposed">Whether the parameter's layout is [inputs, outputs].</param>
    public static FourBitWeight Quantize(Tensor values, FourBitOptions config, UnpackBuffer buffer, bool isTransposed = false)
    {
        using var scope = NewDisposeScope();
        var (packed, scales) = FourBitBlocks.Quantize(values, config.Type, config.BlockSize);
        Tensor? nested = null;
        var offset = 0f;
        if (config.HasNestedScales)
        {
            using var mean = scales.mean();
            offset = mean.item<float>();
            (scales, nested) = DynamicMap.Signed.Quantize(scales.sub(offset), NestedBlockSize);
        }

        var device = values.device;
        return new FourBitWeight(values.shape, values.dtype, buffer, config.Type, config.BlockSize, packed.to(device), scales.to(device), nested?.to(device), offset)
        {
            IsTransposed = isTransposed,
            ComputeType = config.ComputeType,
        };
    }

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        using var scope = NewDisposeScope();
        if (Device.type == DeviceType.CPU)
        {
            FourBitBlocks.Dequantize(packed, DenseScales(), Type, BlockSize, target, DataType);
            return;
        }

        // On a GPU by plain operators: a table by index, then a scale for each block.
        var codes = stack([packed.view(-1).div(16, RoundingMode.floor), packed.view(-1).remainder(16)], 1).view(-1).to(ScalarType.Int32);
        var table = tensor(Type.Values.ToArray(), device: Device);
        var values = table.index_select(0, codes.narrow(0, 0, Count));
        var scale = DenseScales().unsqueeze(1).expand(-1, BlockSize).reshape(-1).narrow(0, 0, Count);
        target.copy_(values.mul_(scale).to(DataType).view(target.shape));
    }

    /// <inheritdoc/>
    public override PackedWeight Repack(Tensor values)
    {
        using var scope = NewDisposeScope();
        return Quantize(values.to(DataType), new FourBitOptions(Type) { BlockSize = BlockSize, HasNestedScales = HasNestedScales, ComputeType = ComputeType }, Buffer, IsTransposed);
    }

    /// <summary>The scales in float32, of the caller's dispose scope.</summary>
    internal Tensor DenseScales()
    {
        if (nestedScales is null)
        {
            return scales.alias();
        }

        return DynamicMap.Signed.Dequantize(scales.cpu(), nestedScales.cpu(), NestedBlockSize).add_(nestedOffset).to(Device);
    }

    /// <inheritdoc/>
    protected override void Free()
    {
        packed.Dispose();
        scales.Dispose();
        nestedScales?.Dispose();
    }

    private static long Size(Tensor tensor) => tensor.NumberOfElements * tensor.ElementSize;
}

/// <summary>How a weight is quantised to four bits.</summary>
/// <param name="Type">NF4 or FP4.</param>
public sealed record FourBitOptions(FourBitType Type)
{
    /// <summary>Numbers of a block; default 64.</summary>
    public int BlockSize { get; init; } = 64;

    /// <summary>Whether the scales are quantised in turn.</summary>
    public bool HasNestedScales { get; init; }

    /// <summary>The type products are formed in; null for the input's.</summary>
    public ScalarType? ComputeType { get; init; }
}
