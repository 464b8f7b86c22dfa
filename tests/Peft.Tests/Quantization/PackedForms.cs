using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Quantization.Checkpoints;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Models whose linear layers are packed as files of each kind hold them.</summary>
internal static class PackedForms
{
    private const int GroupSize = 8;

    /// <summary>Every kind, with settings that few files have: blocks that end within rows, groups out of order, other types to compute in.</summary>
    public static IReadOnlyList<string> Kinds { get; } = ["fp4-double", "gptq", "gptq-8", "awq", "fp8"];

    /// <summary>What a model says of its weights.</summary>
    public static string KindOf(string kind) => kind.Split('-')[0];

    /// <summary>Packs all linear layers of the backbone, and says so in the configuration.</summary>
    public static void Pack(PretrainedModel model, string kind)
    {
        if (kind == "fp4-double")
        {
            ModelQuantizer.Quantize(model, new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.FP4, UseDoubleQuant = true });
            return;
        }

        using var scope = NewDisposeScope();
        var buffer = new UnpackBuffer();
        foreach (var layer in model.Backbone.Descendants().OfType<Linear>())
        {
            var values = layer.ToMatrix(layer.Weight.Data);
            var place = new PackedPlace(buffer, layer.IsTransposed, CPU);
            layer.Weight.Pack(kind == "fp8" ? Float8(values, place) : Grouped(values, kind, place));
        }

        model.Fuse();
        model.Config.Document["quantization_config"] = JsonNode.Parse(kind switch
        {
            "gptq" => """{ "quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": true }""",
            "gptq-8" => """{ "quant_method": "gptq", "bits": 8, "group_size": 8 }""",
            "awq" => """{ "quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm" }""",
            _ => """{ "quant_method": "fp8", "weight_block_size": [5, 7] }""",
        });
    }

    private static PackedWeight Float8(Tensor values, PackedPlace place)
    {
        using var shape = Float8Weight.Of(zeros(values.shape, ScalarType.Byte), ones([(values.size(0) + 4) / 5, (values.size(1) + 6) / 7]), (5, 7), values.dtype, place);
        return shape.Repack(values);
    }

    private static PackedWeight Grouped(Tensor values, string kind, PackedPlace place)
    {
        var (outputs, inputs) = (values.size(0), values.size(1));
        var layout = kind == "awq" ? new GroupedLayout("awq", 4, PacksOutputs: true, ZeroOffset: 0) : new GroupedLayout("gptq", kind == "gptq" ? 4 : 8, PacksOutputs: false, ZeroOffset: 1);
        var perWord = 32 / layout.Bits;
        var groups = inputs / GroupSize;

        // The middle of the codes stands for zero.
        var middle = (1L << (layout.Bits - 1)) - layout.ZeroOffset;
        long word = 0;
        for (var i = 0; i < perWord; i++)
        {
            word |= middle << (layout.Bits * i);
        }

        var scale = values.abs().max().item<float>() / (1 << (layout.Bits - 1));
        var words = zeros(layout.PacksOutputs ? [inputs, outputs / perWord] : [inputs / perWord, outputs], ScalarType.Int32);
        var parts = new GroupedTensors(
            layout,
            words,
            full([groups, outputs / perWord], unchecked((int)word), ScalarType.Int32),
            full([groups, outputs], scale, ScalarType.Float16),
            kind == "gptq" ? arange(inputs, ScalarType.Int32).remainder(groups).to(ScalarType.Int32) : null);
        using var shape = GroupedWeight.Of(parts, values.dtype, place);
        return shape.Repack(values);
    }
}
