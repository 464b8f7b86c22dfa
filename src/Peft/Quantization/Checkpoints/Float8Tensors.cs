using System.Text.Json.Nodes;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization.Checkpoints;

/// <summary>Weights as block-scaled FP8 checkpoints hold them: <c>weight</c> (E4M3) and <c>weight_scale_inv</c>, a scale for each block, which codes are multiplied with.</summary>
internal static class Float8Tensors
{
    private const string ScaleEnd = "_scale_inv";
    private const int LargestBlock = 1 << 12;
    private const int ExponentBias = 127;

    private static long? Whole(JsonNode? node) => node is JsonValue value && value.TryGetValue<long>(out var number) ? number : null;

    /// <summary>The quantised weights of a file.</summary>
    public static IEnumerable<QuantizedTensor> Find(TensorStore file, JsonObject settings, ScalarType type)
    {
        (long Rows, long Columns) block = settings["weight_block_size"] is JsonArray { Count: 2 } sizes && Whole(sizes[0]) is { } rows && Whole(sizes[1]) is { } columns ? (rows, columns) : throw new NotSupportedByPeftException(
            "QuantizationNotSupported", $"The weights in '{file.Path}' are quantised by fp8 without blocks (weight_block_size), which is not supported.") { Target = "weight_block_size", RecommendedAction = "Import the model's unquantised weights, or a GGUF file of it." };
        foreach (var scaleName in file.Names.Where(static name => name.EndsWith(ScaleEnd, StringComparison.Ordinal)))
        {
            var name = scaleName[..^ScaleEnd.Length];
            var (codes, scales) = (file.Entry(name), file.Entry(scaleName));
            var fits = codes is { StoredType: "F8_E4M3", Shape: [> 0, > 0] } && block is { Rows: > 0, Columns: > 0 and <= LargestBlock }
                && scales.Shape.SequenceEqual([(codes.Shape[0] + block.Rows - 1) / block.Rows, (codes.Shape[1] + block.Columns - 1) / block.Columns]);
            if (!fits)
            {
                throw QuantizedTensor.Invalid(file, name, $"its codes are [{string.Join(", ", codes.Shape)}], {codes.StoredType}, its scales [{string.Join(", ", scales.Shape)}], in blocks of {block}");
            }

            yield return new QuantizedTensor(codes with { ScalarType = type, StoredType = "fp8" }, [name, scaleName])
            {
                Pack = place => Float8Weight.Of(file.ReadBytes(name), Scales(file, scales), block, type, place),
            };
        }
    }

    /// <summary>Scales may be powers of two, of which the exponent alone is stored.</summary>
    private static Tensor Scales(TensorStore file, TensorEntry entry)
    {
        if (entry.StoredType != "F8_E8M0")
        {
            return file.Read(entry.Name, ScalarType.Float32);
        }

        var exponents = file.ReadBytes(entry.Name).to(ScalarType.Float32).sub_(ExponentBias);
        return tensor(exponents.data<float>().ToArray().Select(static exponent => MathF.ScaleB(1, (int)exponent)).ToArray()).view([.. entry.Shape]);
    }
}
