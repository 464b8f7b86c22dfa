using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Quantization.Checkpoints;
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

    // GPTQ's first format stores zero points less one; its readers add one and keep the bits of a code.
    [Fact]
    public void A_zero_point_of_GPTQ_is_0_where_all_bits_are_stored()
    {
        var layout = new GroupedLayout("gptq", 4, PacksOutputs: false, ZeroOffset: 1);
        var parts = new GroupedTensors(layout, full([1, 8], 0x33333333, ScalarType.Int32), full([1, 1], unchecked((int)0x1111F111), ScalarType.Int32), ones([1, 8], ScalarType.Float16), null);
        using var weight = GroupedWeight.Of(parts, ScalarType.Float32, new PackedPlace(_buffer, false, CPU));
        var values = empty(8, 8);
        weight.Unpack(values);
        Assert.Equal([1, 1, 1, 3, 1, 1, 1, 1], values.select(1, 0).data<float>().ToArray());
    }

    [Theory]
    [InlineData(false, false, 5)]
    [InlineData(false, false, 20)]
    [InlineData(false, true, 5)]
    [InlineData(false, true, 20)]
    [InlineData(true, false, 5)]
    [InlineData(true, false, 20)]
    [InlineData(true, true, 5)]
    [InlineData(true, true, 20)]
    public void A_layer_with_packed_weights_computes_as_with_the_values_they_stand_for(bool isTransposed, bool hasTape, int rows)
    {
        using var packed = Layer(64, 48, isTransposed);
        using var plain = Unpacked(packed);
        using var tape = hasTape ? new Tape() : null;
        var x = Input(rows, 64);
        var residual = Input(rows, 48);
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
        var x = Input(20, 64);
        var expected = cat([plainFirst.Forward(x, new ForwardContext()), plainSecond.Forward(x, new ForwardContext())], 1);
        TensorAssert.CloseToScale(expected, group.Forward(x, new ForwardContext()), 1e-6);

        using var tape = new Tape();
        tape.AddRoot(x, needsGradient: true);
        var y = group.Forward(x, new ForwardContext { Tape = tape });
        TensorAssert.CloseToScale(expected, y, 1e-6);
        var gradient = Input(20, 64);
        var found = tape.BackwardTo([(y, gradient)], [x], default)[0]!;
        TensorAssert.CloseToScale(gradient.mm(cat([plainFirst.Weight.Data, plainSecond.Weight.Data], 0)), found, 1e-6);
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void A_few_rows_give_what_each_gives_alone(ScalarType type)
    {
        using var layer = Layer(128, 48);
        var x = Input(6, 128).to(type);
        var together = layer.Forward(x, new ForwardContext());
        for (var row = 0; row < 6; row++)
        {
            Assert.True(layer.Forward(x.narrow(0, row, 1), new ForwardContext()).equal(together.narrow(0, row, 1)).all().item<bool>());
        }
    }

    public static TheoryData<string, long, long, int, bool, ScalarType> Rows()
    {
        TheoryData<string, long, long, int, bool, ScalarType> rows = [];
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            rows.Add("nf4", 576, 50, 64, false, type);
            rows.Add("nf4", 256, 7, 64, true, type);
            rows.Add("fp4", 320, 9, 128, true, type);
            rows.Add("nf4", 192, 33, 256, false, type);
            rows.Add("nf4", 60, 9, 64, false, type);
            rows.Add("nf4", 64, 9, 32, false, type);
            rows.Add("int8", 100, 41, 0, false, type);
            rows.Add("int8", 576, 41, 0, false, type);
            rows.Add("int8", 576, 41, 6, false, type);
        }

        return rows;
    }

    [Theory]
    [MemberData(nameof(Rows))]
    public void One_row_gives_what_it_gives_among_several(string kind, long inputs, long outputs, int setting, bool isNested, ScalarType type)
    {
        var values = Input(outputs, inputs).to(type);
        var x = Input(1, inputs);
        x[0, 3] = 7;
        x = x.to(type);
        using PackedWeight packed = kind == "int8"
            ? Int8Weight.Quantize(values, setting, _buffer)
            : FourBitWeight.Quantize(values, new FourBitOptions(FourBitType.Named(kind)) { BlockSize = setting, HasNestedScales = isNested }, _buffer);
        var y = empty([1, outputs], type);
        var isServed = packed.RowProduct(x, y);
        Assert.Equal(kind == "int8" || (inputs % 64 == 0 && setting % 64 == 0), isServed);
        if (isServed)
        {
            var expected = kind == "int8" ? packed.Product(x, null) : x.to(ScalarType.Float32).mm(Plain(packed).t());
            TensorAssert.CloseToScale(expected.to(ScalarType.Float32), y.to(ScalarType.Float32), type == ScalarType.BFloat16 ? 8e-3 : 1e-5);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Values_are_looked_up_in_the_type_that_is_asked_for_whatever_the_length(ScalarType type)
    {
        foreach (var count in new long[] { 1, 15, 16, 33, 64, 130, 1000 })
        {
            using var packed = FourBitWeight.Quantize(Input(1, count), new FourBitOptions(FourBitType.NF4), _buffer);
            var expected = Plain(packed);
            var found = empty([1, count], type);
            packed.Unpack(found);
            TensorAssert.Close(expected.to(type).to(ScalarType.Float32), found.to(ScalarType.Float32), 0, 0, $"{count} of {type}");
        }
    }

    /// <summary>The values by their definition.</summary>
    private static Tensor Plain(PackedWeight packed)
    {
        var four = (FourBitWeight)packed;
        var (codes, scales) = (four.Packed.data<byte>().ToArray(), four.DenseScales().data<float>().ToArray());
        var values = new float[packed.Count];
        for (var i = 0; i < values.Length; i++)
        {
            values[i] = four.Type.Values[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * scales[i / four.BlockSize];
        }

        return tensor(values).view([.. packed.Shape]).to(packed.DataType).to(ScalarType.Float32);
    }

    [Fact]
    public void Memory_to_unpack_to_is_that_of_the_largest_weight_and_goes_with_the_last()
    {
        var large = Layer(64, 128);
        var small = Layer(64, 16);
        var x = Input(20, 64);
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
