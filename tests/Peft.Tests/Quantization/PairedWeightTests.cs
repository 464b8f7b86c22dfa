using Peft.Engine;
using Peft.Models;
using Peft.Quantization.Blocks;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Gate and up in blocks of a type each, as one weight.</summary>
public class PairedWeightTests
{
    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public unsafe void It_is_the_weight_that_its_halves_make(bool isInterleaved, bool hasExperts)
    {
        const int Outputs = 70, Inputs = 256;
        using var scope = NewDisposeScope();
        using var generator = new Generator(1);
        var buffer = new UnpackBuffer();
        long[] shape = hasExperts ? [3, Outputs, Inputs] : [Outputs, Inputs];
        var (gate, up) = (empty(shape).normal_(0, 1, generator), empty(shape).normal_(0, 1, generator));
        using var first = BlockWeight.Quantize(gate, "Q8_0", buffer);
        using var second = BlockWeight.Quantize(up, "Q4_K", buffer);
        using var paired = PairedWeight.Of(BlockWeight.Quantize(gate, "Q8_0", buffer), BlockWeight.Quantize(up, "Q4_K", buffer), isInterleaved, buffer);
        var (a, b) = (empty(shape), empty(shape));
        first.Unpack(a);
        second.Unpack(b);
        var expected = isInterleaved ? stack([a, b], -2).view([.. paired.Shape]) : cat([a, b], a.dim() - 2);
        var found = empty([.. paired.Shape]);
        paired.Unpack(found);
        Assert.True(found.equal(expected).all().item<bool>());
        Assert.Equal(first.Bytes + second.Bytes, paired.Bytes);

        using var again = paired.Repack(found);
        var unpacked = empty([.. paired.Shape]);
        again.Unpack(unpacked);
        TensorAssert.CloseToScale(found, unpacked, 0.05, "packed again");

        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            var x = empty([1, Inputs]).normal_(0, 1, generator).to(type);
            var product = x.to(ScalarType.Float32).mm(expected.view(-1, Inputs).t());
            var rows = paired.Rows(type)!;
            var scratch = empty([rows.ScratchFloats + 16]);
            var start = (float*)(((nint)Peft.Tensors.TensorMemory.Pointer(scratch) + 63) / 64 * 64);
            var input = rows.Arrange(CpuRows.Of(x, Inputs), 0, start);
            var sums = new float[rows.Count];
            fixed (float* to = sums)
            {
                for (var row = 0; row < sums.Length; row += 37)
                {
                    rows.Sum(row, Math.Min(37, sums.Length - row), input, to + row);
                }
            }

            var tolerance = type == ScalarType.Float32 ? 1e-5 : 1e-3;
            TensorAssert.CloseToScale(product[0], tensor(sums), tolerance, $"rows in {type}");
            var own = paired.Expert(1) ?? paired;
            var y = empty([1, 2 * Outputs], type);
            Assert.True(own.RowProduct(x, y));
            TensorAssert.CloseToScale(product.narrow(1, hasExperts ? 2 * Outputs : 0, 2 * Outputs), y.to(ScalarType.Float32), type == ScalarType.Float32 ? 1e-5 : 1e-2, $"product in {type}");
        }
    }
}
