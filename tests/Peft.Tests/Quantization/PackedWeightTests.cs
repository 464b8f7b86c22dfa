using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Layers whose weights are packed, beside the same layers with the values that the packed weights stand for.</summary>
public sealed class PackedWeightTests : IDisposable
{
    private readonly TorchSharp.DisposeScope _scope = NewDisposeScope();
    private readonly UnpackBuffer _buffer = new();
    private readonly Generator _random = new(7);

    public void Dispose()
    {
        _scope.Dispose();
        _random.Dispose();
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void A_layer_with_packed_weights_computes_as_with_the_values_they_stand_for(bool isTransposed, bool hasTape)
    {
        using var packed = Layer(64, 48, isTransposed);
        using var plain = Unpacked(packed);
        using var tape = hasTape ? new Tape() : null;
        var x = Input(5, 64);
        var residual = Input(5, 48);
        tape?.AddRoot(x);
        tape?.AddRoot(residual);
        TensorAssert.CloseToScale(
            plain.Forward(x, new ForwardContext(), residual), packed.Forward(x, new ForwardContext { Tape = tape }, residual), 1e-6);
    }

    [Fact]
    public void Layers_that_share_an_input_unpack_one_below_the_other()
    {
        using var first = Layer(64, 48);
        using var second = Layer(64, 16);
        using var group = new LinearGroup(first, second);
        group.Fuse();
        using var plainFirst = Unpacked(first);
        using var plainSecond = Unpacked(second);
        var x = Input(5, 64);
        var expected = cat([plainFirst.Forward(x, new ForwardContext()), plainSecond.Forward(x, new ForwardContext())], 1);
        TensorAssert.CloseToScale(expected, group.Forward(x, new ForwardContext()), 1e-6);

        using var tape = new Tape();
        tape.AddRoot(x, needsGradient: true);
        var y = group.Forward(x, new ForwardContext { Tape = tape });
        TensorAssert.CloseToScale(expected, y, 1e-6);
        var gradient = Input(5, 64);
        var found = tape.BackwardTo([(y, gradient)], [x], default)[0]!;
        TensorAssert.CloseToScale(gradient.mm(cat([plainFirst.Weight.Data, plainSecond.Weight.Data], 0)), found, 1e-6);
    }

    [Fact]
    public void Memory_to_unpack_to_is_that_of_the_largest_weight_and_goes_with_the_last()
    {
        var large = Layer(64, 128);
        var small = Layer(64, 16);
        var x = Input(5, 64);
        for (var i = 0; i < 3; i++)
        {
            small.Forward(x, new ForwardContext());
            large.Forward(x, new ForwardContext());
        }

        Assert.Equal(64 * 128 * 4, _buffer.Bytes);
        large.Dispose();
        Assert.Equal(64 * 128 * 4, _buffer.Bytes);
        small.Dispose();
        Assert.Equal(0, _buffer.Bytes);
    }

    [Fact]
    public void Who_asks_for_the_plain_weights_is_told_that_they_are_quantised()
    {
        using var layer = Layer(64, 48);
        Assert.Equal("WeightsPacked", Assert.Throws<PeftException>(() => layer.Weight.Data).ErrorId);
        Assert.True(layer.Weight.Bytes < 64 * 48 * 4 / 6);
    }

    private Tensor Input(long rows, long width) => randn([rows, width], ScalarType.Float32, generator: _random);

    private Linear Layer(long inputs, long outputs, bool isTransposed = false)
    {
        var layer = new Linear(inputs, outputs, hasBias: true, isTransposed);
        layer.Bias!.Assign(randn([outputs], ScalarType.Float32, generator: _random));
        layer.Weight.Pack(FourBitWeight.Quantize(Input(outputs, inputs), new FourBitOptions(FourBitType.NF4), _buffer, isTransposed));
        return layer;
    }

    private static Linear Unpacked(Linear layer)
    {
        var plain = new Linear(layer.Inputs, layer.Outputs, hasBias: true, layer.IsTransposed);
        plain.Weight.Assign(layer.Weight.Unpacked(ScalarType.Float32));
        plain.Bias!.Assign(layer.Bias!.Data.clone());
        return plain;
    }
}
