using Peft.Quantization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>What a GPU does with four-bit blocks, by operators that run on the processor too.</summary>
public sealed class FourBitOperatorsTests
{
    public static TheoryData<string, int, bool, long> Weights => new()
    {
        { "nf4", 64, true, 96 * 128 },
        { "nf4", 32, false, 9_000_000 },
        { "fp4", 64, true, 1 },
        { "fp4", 128, false, (300 * 128) + 77 },
        { "nf4", 4096, true, 5000 },
    };

    [Theory]
    [MemberData(nameof(Weights))]
    public void They_unpack_to_the_bits_of_the_processors_kernel(string type, int blockSize, bool isNested, long count)
    {
        using var scope = NewDisposeScope();
        var four = FourBitType.Named(type);
        var (packed, scales) = FourBitBlocks.Quantize(randn([count]).mul_(3), four, blockSize);
        var parts = new FourBitParts(four, blockSize, packed, scales, null, 0);
        if (isNested)
        {
            var offset = scales.mean().item<float>();
            var (codes, nested) = DynamicMap.Signed.Quantize(scales.sub(offset), FourBitWeight.NestedBlockSize);
            parts = new FourBitParts(four, blockSize, packed, codes, nested, offset);
            scales = DynamicMap.Signed.Dequantize(codes, nested, FourBitWeight.NestedBlockSize).add_(offset);
            Assert.Equal(0, FourBitOperators.Scales(parts).sub(scales).abs().max().item<float>());
        }

        foreach (var target in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16])
        {
            var (expected, actual) = (empty([count], target), empty([count], target));
            FourBitBlocks.Dequantize(packed, scales, four, blockSize, expected, ScalarType.BFloat16);
            FourBitOperators.Unpack(parts, actual, ScalarType.BFloat16);
            Assert.Equal(0, expected.to(ScalarType.Float32).sub(actual.to(ScalarType.Float32)).abs().max().item<float>());
        }
    }
}
