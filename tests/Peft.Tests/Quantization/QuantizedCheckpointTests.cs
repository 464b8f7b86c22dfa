using System.Buffers.Binary;
using System.Text;
using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Quantization.Checkpoints;
using Peft.Tensors;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Checkpoints whose layouts no golden case has, held to the formula that transformers dequantises them by.</summary>
public sealed class QuantizedCheckpointTests : TensorFileTests
{
    [Fact]
    public void Experts_in_mxfp4_are_pairs_of_four_bit_floats_times_a_power_of_two_and_transposed()
    {
        using var random = new Generator(3);
        var blocks = randint(0, 256, [2, 6, 2, 16], ScalarType.Int64, generator: random);
        var scales = randint(118, 132, [2, 6, 2], ScalarType.Int64, generator: random);
        var path = Path.Combine(Folder.Path, "model.safetensors");
        SafetensorsWriter.Write(path, [("experts.gate_up_proj_blocks", blocks.to(ScalarType.Byte)), ("experts.gate_up_proj_scales", scales.to(ScalarType.Byte)), ("norm.weight", ones(3))]);
        using var file = TensorStore.OpenFile(path);
        using var store = QuantizedStore.Open(new JsonObject { ["quant_method"] = "mxfp4" }, ScalarType.BFloat16, file);
        Assert.Equal(["experts.gate_up_proj", "norm.weight"], store.Names.Order(StringComparer.Ordinal));

        var table = tensor(new[] { 0f, 0.5f, 1f, 1.5f, 2f, 3f, 4f, 6f, -0f, -0.5f, -1f, -1.5f, -2f, -3f, -4f, -6f });
        var low = blocks.remainder(16);
        var pairs = stack([low, blocks.sub(low).div(16).to(ScalarType.Int64)], -1).reshape(-1);
        var values = table.index_select(0, pairs).view(2, 6, 2, 32) * full([2, 6, 2, 1], 2.0).pow(scales.sub(127).unsqueeze(-1));
        TensorAssert.Close(values.view(2, 6, 64).transpose(1, 2), store.Read("experts.gate_up_proj", ScalarType.Float32), 0, 0, "mxfp4");
    }

    [Theory]
    [InlineData("F32")]
    [InlineData("F8_E8M0")]
    public void Eight_bit_floats_are_multiplied_with_the_scale_of_their_block(string scaleType)
    {
        const int Height = 20, Width = 12, BlockHeight = 8, BlockWidth = 5, Down = 3, Across = 3;

        // No code of these is the one that is no number.
        byte[] codes = [.. Enumerable.Range(0, Height * Width).Select(static i => (byte)((i * 7) % 127 + (i % 2 * 128)))];
        float[] scales = [.. Enumerable.Range(0, Down * Across).Select(static i => MathF.ScaleB(1, i - 4))];
        byte[] stored = scaleType == "F32"
            ? [.. scales.SelectMany(static scale => { var bytes = new byte[4]; BinaryPrimitives.WriteSingleLittleEndian(bytes, scale); return bytes; })]
            : [.. Enumerable.Range(0, Down * Across).Select(static i => (byte)(127 + i - 4))];
        var header = Encoding.UTF8.GetBytes(FormattableString.Invariant(
            $$$"""{"a.weight":{"dtype":"F8_E4M3","shape":[{{{Height}}},{{{Width}}}],"data_offsets":[0,{{{codes.Length}}}]},"a.weight_scale_inv":{"dtype":"{{{scaleType}}}","shape":[{{{Down}}},{{{Across}}}],"data_offsets":[{{{codes.Length}}},{{{codes.Length + stored.Length}}}]}}"""));
        var length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        var path = Path.Combine(Folder.Path, "model.safetensors");
        File.WriteAllBytes(path, [.. length, .. header, .. codes, .. stored]);
        using var file = TensorStore.OpenFile(path);
        using var store = QuantizedStore.Open(new JsonObject { ["quant_method"] = "fp8", ["weight_block_size"] = JsonNode.Parse(FormattableString.Invariant($"[{BlockHeight}, {BlockWidth}]")) }, ScalarType.Float32, file);

        var wanted = new float[Height * Width];
        for (var i = 0; i < wanted.Length; i++)
        {
            var (row, column) = (i / Width, i % Width);
            wanted[i] = Float8.E4M3[codes[i]] * scales[(row / BlockHeight * Across) + (column / BlockWidth)];
        }

        TensorAssert.Close(tensor(wanted).view(Height, Width), store.Read("a.weight"), 0, 0, "fp8");
        var packing = Assert.IsAssignableFrom<IPackedStore>(store);
        Assert.True(packing.IsPacked("a.weight"));
        using var packed = packing.ReadPacked("a.weight", new UnpackBuffer(), isTransposed: false, CPU);
        using var again = packed.Repack(tensor(wanted).view(Height, Width));
        var target = empty(Height, Width);
        again.Unpack(target);

        // Half of a step: one of eight in a number's fraction, or the smallest there is, 2^-9, at the largest scale.
        TensorAssert.Close(tensor(wanted).view(Height, Width), target, 16 * MathF.ScaleB(1, -10), 1.0 / 16, "fp8 again");
    }
}
