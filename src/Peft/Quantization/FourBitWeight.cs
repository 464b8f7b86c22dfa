using Peft.Engine.Cuda;
using Peft.Engine.Steps;
using Peft.Models;
using Peft.Quantization.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>A weight as four-bit numbers in blocks, as bitsandbytes' <c>Linear4bit</c> holds it; the scales may be quantised in turn.</summary>
public sealed class FourBitWeight : PackedWeight
{
    /// <summary>Scales of a block of scales.</summary>
    internal const int NestedBlockSize = 256;

    private readonly Tensor _packed;
    private readonly Tensor _scales;
    private readonly Tensor? _nestedScales;
    private readonly float _nestedOffset;

    private FourBitWeight(FourBitParts parts, IReadOnlyList<long> shape, ScalarType dataType, UnpackBuffer buffer)
        : base(shape, dataType, buffer)
    {
        Type = parts.Type;
        BlockSize = parts.BlockSize;
        _packed = parts.Packed.DetachFromDisposeScope();
        _scales = parts.Scales.DetachFromDisposeScope();
        _nestedScales = parts.NestedScales?.DetachFromDisposeScope();
        _nestedOffset = parts.NestedOffset;
    }

    /// <summary>NF4 or FP4.</summary>
    public FourBitType Type { get; }

    /// <summary>Numbers of a block.</summary>
    public int BlockSize { get; }

    /// <summary>Whether the scales are quantised in turn.</summary>
    public bool HasNestedScales => _nestedScales is not null;

    /// <summary>Two numbers a byte, the first in the high half: [half of the elements, rounded up, 1], uint8.</summary>
    public Tensor Packed => _packed;

    /// <summary>A scale for each block: float32, or uint8 where they are quantised in turn.</summary>
    public Tensor Scales => _scales;

    /// <summary>A scale for each block of 256 scales, float32, or null.</summary>
    public Tensor? NestedScales => _nestedScales;

    /// <summary>The mean of the scales, which was subtracted before they were quantised.</summary>
    public float NestedOffset => _nestedOffset;

    /// <inheritdoc/>
    public override string Kind => Type.Name;

    /// <inheritdoc/>
    public override long Bytes => Size(_packed) + Size(_scales) + (_nestedScales is null ? 0 : Size(_nestedScales));

    /// <inheritdoc/>
    public override Device Device => _packed.device;

    private FourBitParts Parts => new(Type, BlockSize, _packed, _scales, _nestedScales, _nestedOffset);

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
        var parts = new FourBitParts(config.Type, config.BlockSize, packed, scales, nested, offset);
        return Of(parts, values.shape, values.dtype, new PackedPlace(buffer, isTransposed, device), config.ComputeType);
    }

    /// <summary>Takes what a file holds.</summary>
    /// <param name="parts">Tensors of the caller's dispose scope.</param>
    /// <param name="shape">[outputs, inputs].</param>
    /// <param name="dataType">The type it was quantised from.</param>
    /// <param name="place">Where it goes.</param>
    /// <param name="computeType">The type products are formed in; null for the input's.</param>
    internal static FourBitWeight Of(FourBitParts parts, IReadOnlyList<long> shape, ScalarType dataType, PackedPlace place, ScalarType? computeType)
    {
        parts = parts with { Packed = parts.Packed.to(place.Device), Scales = parts.Scales.to(place.Device), NestedScales = parts.NestedScales?.to(place.Device) };
        return new FourBitWeight(parts, shape, dataType, place.Buffer) { IsTransposed = place.IsTransposed, ComputeType = computeType };
    }

    /// <inheritdoc/>
    public override bool IsStorable => true;

    /// <inheritdoc/>
    public override bool IsFinite
    {
        get
        {
            using var sum = (_nestedScales ?? _scales).sum();
            return float.IsFinite(sum.item<float>());
        }
    }

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> Stored(string name) => BitsAndBytesTensors.Stored(this, name);

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        using var scope = NewDisposeScope();
        if (KernelDevice.Of(target) is { } device && FourBitLaunches.Unpack(device, Parts, target, DataType))
        {
            return;
        }

        if (Device.type == DeviceType.CPU)
        {
            FourBitBlocks.Dequantize(_packed, DenseScales(), Type, BlockSize, target, DataType);
            return;
        }

        FourBitOperators.Unpack(Parts, target, DataType);
    }

    /// <inheritdoc/>
    internal override bool RowProduct(Tensor x, Tensor y)
    {
        if (KernelDevice.Of(x) is not { } device)
        {
            return FourBitRowProduct.TryRun(Parts, x, y);
        }

        using var operation = x.dtype == y.dtype ? Launch(device, x, new KernelArguments.ProductTarget { Y = device.Address(y) }) : null;
        operation?.RunAlone();
        return operation is not null;
    }

    /// <inheritdoc/>
    internal override StepRows? Rows(ScalarType type) => FourBitRowProduct.Rows(Parts, Shape, type);

    /// <inheritdoc/>
    internal override StepOperation? Launch(KernelDevice device, Tensor x, KernelArguments.ProductTarget target) =>
        FourBitLaunches.Product(device, Parts, Shape[0], x, target);

    /// <inheritdoc/>
    public override PackedWeight Repack(Tensor values)
    {
        using var scope = NewDisposeScope();
        return Quantize(values.to(DataType), new FourBitOptions(Type) { BlockSize = BlockSize, HasNestedScales = HasNestedScales, ComputeType = ComputeType }, Buffer, IsTransposed);
    }

    /// <inheritdoc/>
    internal override PackedWeight Moved(Func<Tensor, Tensor> move)
    {
        var parts = Parts with { Packed = move(_packed), Scales = move(_scales), NestedScales = _nestedScales is null ? null : move(_nestedScales) };
        return new FourBitWeight(parts, Shape, DataType, Buffer) { IsTransposed = IsTransposed, ComputeType = ComputeType };
    }

    /// <summary>The scales in float32, of the caller's dispose scope.</summary>
    internal Tensor DenseScales()
    {
        if (_nestedScales is null)
        {
            return _scales.alias();
        }

        return Device.type == DeviceType.CPU
            ? DynamicMap.Signed.Dequantize(_scales, _nestedScales, NestedBlockSize).add_(_nestedOffset)
            : FourBitOperators.Scales(Parts);
    }

    /// <inheritdoc/>
    protected override void Free()
    {
        _packed.Dispose();
        _scales.Dispose();
        _nestedScales?.Dispose();
    }

    private static long Size(Tensor tensor) => tensor.NumberOfElements * tensor.ElementSize;
}

/// <summary>What four-bit blocks consist of.</summary>
/// <param name="Type">NF4 or FP4.</param>
/// <param name="BlockSize">Numbers of a block.</param>
/// <param name="Packed">[half of the elements, rounded up, 1], uint8.</param>
/// <param name="Scales">A scale for each block: float32, or uint8 where they are quantised in turn.</param>
/// <param name="NestedScales">A scale for each block of scales, float32, or null.</param>
/// <param name="NestedOffset">The mean of the scales, which was subtracted before they were quantised.</param>
internal sealed record FourBitParts(FourBitType Type, int BlockSize, Tensor Packed, Tensor Scales, Tensor? NestedScales, float NestedOffset);

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
