using Peft.Engine.Steps;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization.Checkpoints;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>A weight as eight-bit integers by rows, as bitsandbytes' <c>Linear8bitLt</c> holds it: the input is quantised as well, but for its outlier columns.</summary>
public sealed class Int8Weight : PackedWeight
{
    private readonly Tensor _codes;
    private readonly Tensor _scales;

    private Int8Weight(Tensor codes, Tensor scales, ScalarType dataType, double threshold, UnpackBuffer buffer)
        : base(codes.shape, dataType, buffer)
    {
        _codes = codes.DetachFromDisposeScope();
        _scales = scales.DetachFromDisposeScope();
        Threshold = threshold;
    }

    /// <summary>The magnitude from which on an input's column is an outlier; 0 for none.</summary>
    public double Threshold { get; }

    /// <summary>[outputs, inputs], int8.</summary>
    public Tensor Codes => _codes;

    /// <summary>Largest magnitude of each row, [outputs], float32.</summary>
    public Tensor Scales => _scales;

    /// <inheritdoc/>
    public override string Kind => "int8";

    /// <inheritdoc/>
    public override bool HasProduct => true;

    /// <inheritdoc/>
    public override long Bytes => _codes.NumberOfElements + (_scales.NumberOfElements * _scales.ElementSize);

    /// <inheritdoc/>
    public override Device Device => _codes.device;

    /// <summary>Quantises a weight, by way of float16 as bitsandbytes does.</summary>
    /// <param name="values">[outputs, inputs], floating point.</param>
    /// <param name="threshold">The magnitude from which on an input's column is an outlier; 0 for none.</param>
    /// <param name="buffer">Where the model's packed weights are unpacked to.</param>
    /// <param name="isTransposed">Whether the parameter's layout is [inputs, outputs].</param>
    public static Int8Weight Quantize(Tensor values, double threshold, UnpackBuffer buffer, bool isTransposed = false)
    {
        using var scope = NewDisposeScope();
        var (codes, scales, _) = Int8Rows.Quantize(values.to(ScalarType.Float16));
        return Of(codes, scales, values.dtype, threshold, new PackedPlace(buffer, isTransposed, values.device));
    }

    /// <summary>Takes what a file holds.</summary>
    internal static Int8Weight Of(Tensor codes, Tensor scales, ScalarType dataType, double threshold, PackedPlace place) =>
        new(codes.to(place.Device), scales.to(place.Device), dataType, threshold, place.Buffer) { IsTransposed = place.IsTransposed };

    /// <inheritdoc/>
    public override bool IsStorable => true;

    /// <inheritdoc/>
    public override bool IsFinite
    {
        get
        {
            using var sum = _scales.sum();
            return float.IsFinite(sum.item<float>());
        }
    }

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> Stored(string name)
    {
        var stem = name[..(name.LastIndexOf('.') + 1)];
        yield return (name, _codes);
        yield return (stem + "SCB", _scales);
        yield return (stem + "weight_format", zeros([], ScalarType.Byte));
    }

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        using var scope = NewDisposeScope();
        target.copy_(_codes.to(ScalarType.Float32).mul_(_scales.mul(1.0 / 127.0).unsqueeze(1)).view(target.shape));
    }

    /// <inheritdoc/>
    public override Tensor Product(Tensor x, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        var (quantised, rows, outliers) = Int8Rows.Quantize(x.to(ScalarType.Float16), Threshold);
        var sums = Int8Rows.Dequantize(Int8Rows.Multiply(quantised, _codes), rows, _scales);
        var y = LinearProduct.Cast(bias is null ? sums : sums.add_(bias), x.dtype);
        if (outliers is not null)
        {
            var columns = outliers.nonzero().view(-1);
            if (columns.size(0) > 0)
            {
                // In the input's type, summed in float32.
                var weight = _codes.index_select(1, columns).to(ScalarType.Float32).mul_(_scales.mul(1.0 / 127.0).unsqueeze(1)).to(x.dtype).to(ScalarType.Float32);
                y = LinearProduct.Cast(addmm(y.to(ScalarType.Float32), x.index_select(1, columns).to(ScalarType.Float32), weight.t(), 1, 1), x.dtype);
            }
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    internal override StepRows? Rows(ScalarType type) => Int8RowProduct.Rows(_codes, _scales, Threshold, type);

    /// <inheritdoc/>
    internal override bool RowProduct(Tensor x, Tensor y) => Int8RowProduct.TryRun(_codes, _scales, Threshold, x, y);

    /// <inheritdoc/>
    public override PackedWeight Repack(Tensor values) => Quantize(values, Threshold, Buffer, IsTransposed);

    /// <inheritdoc/>
    internal override PackedWeight Moved(Func<Tensor, Tensor> move) =>
        new Int8Weight(move(_codes), move(_scales), DataType, Threshold, Buffer) { IsTransposed = IsTransposed };

    /// <inheritdoc/>
    protected override void Free()
    {
        _codes.Dispose();
        _scales.Dispose();
    }
}
