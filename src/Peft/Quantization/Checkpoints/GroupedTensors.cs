using System.Text.Json.Nodes;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization.Checkpoints;

/// <summary>How codes and zero points lie in their words.</summary>
/// <param name="Name">gptq or awq.</param>
/// <param name="Bits">Bits of a code.</param>
/// <param name="PacksOutputs">Whether the codes of a word are of neighbouring outputs (AWQ); otherwise of neighbouring inputs (GPTQ).</param>
/// <param name="ZeroOffset">What is added to a stored zero point: GPTQ's first format stores it less one.</param>
internal sealed record GroupedLayout(string Name, int Bits, bool PacksOutputs, uint ZeroOffset);

/// <summary>The tensors of a GPTQ or AWQ weight.</summary>
/// <param name="Layout">How they are packed.</param>
/// <param name="Words"><c>qweight</c>: [inputs / codes of a word, outputs], or [inputs, outputs / codes of a word] where outputs are packed; int32.</param>
/// <param name="Zeros"><c>qzeros</c>: [groups, outputs / codes of a word], int32.</param>
/// <param name="Scales"><c>scales</c>: [groups, outputs], float16.</param>
/// <param name="Groups"><c>g_idx</c>: the group of each input, int32; null where they are in order.</param>
internal sealed record GroupedTensors(GroupedLayout Layout, Tensor Words, Tensor Zeros, Tensor Scales, Tensor? Groups)
{
    private const string WordsEnd = ".qweight";

    public long Outputs => Scales.shape[1];

    public long Inputs => Layout.PacksOutputs ? Words.shape[0] : Words.shape[0] * (32 / Layout.Bits);

    /// <summary>The quantised weights of a GPTQ checkpoint.</summary>
    public static IEnumerable<QuantizedTensor> FindGptq(TensorStore file, JsonObject settings, ScalarType type)
    {
        var bits = (int?)settings["bits"] ?? 4;
        var isFirstFormat = (string?)settings["checkpoint_format"] is null or "gptq";
        return bits is 2 or 4 or 8
            ? Find(file, new GroupedLayout("gptq", bits, PacksOutputs: false, ZeroOffset: isFirstFormat ? 1u : 0u), type)
            : throw NotSupported(file, "gptq", $"{bits} bits");
    }

    /// <summary>The quantised weights of an AWQ checkpoint.</summary>
    public static IEnumerable<QuantizedTensor> FindAwq(TensorStore file, JsonObject settings, ScalarType type)
    {
        var (bits, version) = ((int?)settings["bits"] ?? 4, ((string?)settings["version"] ?? (string?)settings["format"] ?? "gemm").ToUpperInvariant());
        return bits == 4 && version == "GEMM"
            ? Find(file, new GroupedLayout("awq", bits, PacksOutputs: true, ZeroOffset: 0), type)
            : throw NotSupported(file, "awq", $"{bits} bits and the layout {version}");
    }

    /// <summary>The tensors by the names that a file has for them.</summary>
    /// <param name="stem">The layer's path with a dot behind.</param>
    public IEnumerable<(string Name, Tensor Tensor)> Named(string stem)
    {
        yield return (stem + "qweight", Words);
        yield return (stem + "qzeros", Zeros);
        yield return (stem + "scales", Scales);
        if (Groups is not null)
        {
            yield return (stem + "g_idx", Groups);
        }
    }

    /// <summary>The same on a device.</summary>
    public GroupedTensors On(Device device) => this with { Words = Words.to(device), Zeros = Zeros.to(device), Scales = Scales.to(device), Groups = Groups?.to(device) };

    /// <summary>The group of each input.</summary>
    public int[] GroupOfInputs()
    {
        if (Groups is { } own)
        {
            return own.data<int>().ToArray();
        }

        var (inputs, groups) = ((int)Inputs, (int)Scales.shape[0]);
        return [.. Enumerable.Range(0, inputs).Select(input => input / (inputs / groups))];
    }

    private static IEnumerable<QuantizedTensor> Find(TensorStore file, GroupedLayout layout, ScalarType type)
    {
        foreach (var words in file.Names.Where(static name => name.EndsWith(WordsEnd, StringComparison.Ordinal)))
        {
            var stem = words[..^"qweight".Length];
            if (!file.TryGetEntry(stem + "qzeros", out var zeros) || !file.TryGetEntry(stem + "scales", out var scales))
            {
                throw QuantizedTensor.Invalid(file, stem, "qzeros or scales are missing");
            }

            var (perWord, given) = (32 / layout.Bits, file.Entry(words));
            long groups = 0, inputs = 0, outputs = 0;
            if (given.Shape.Count == 2 && scales.Shape.Count == 2)
            {
                (groups, outputs, inputs) = (scales.Shape[0], scales.Shape[1], given.Shape[0] * (layout.PacksOutputs ? 1 : perWord));
            }

            var fits = groups > 0 && inputs % groups == 0 && inputs <= int.MaxValue && outputs % perWord == 0
                && given.Shape[1] == (layout.PacksOutputs ? outputs / perWord : outputs) && zeros.Shape.SequenceEqual([groups, outputs / perWord])
                && given.ScalarType == ScalarType.Int32 && zeros.ScalarType == ScalarType.Int32;
            if (!fits)
            {
                throw QuantizedTensor.Invalid(file, stem, $"qweight is [{string.Join(", ", given.Shape)}], qzeros [{string.Join(", ", zeros.Shape)}], scales [{string.Join(", ", scales.Shape)}]");
            }

            string[] parts = [words, stem + "qzeros", stem + "scales", .. file.Contains(stem + "g_idx") ? (string[])[stem + "g_idx"] : []];
            yield return new QuantizedTensor(new TensorEntry(stem + "weight", type, [outputs, inputs], layout.Name), parts)
            {
                Pack = place => GroupedWeight.Of(Read(file, layout, stem, groups), type, place),
            };
        }
    }

    private static GroupedTensors Read(TensorStore file, GroupedLayout layout, string stem, long groups)
    {
        Tensor? index = null;
        if (!layout.PacksOutputs && file.Contains(stem + "g_idx"))
        {
            index = file.Read(stem + "g_idx", ScalarType.Int32);
            if (index.NumberOfElements > 0 && (index.min().item<int>() < 0 || index.max().item<int>() >= groups))
            {
                throw QuantizedTensor.Invalid(file, stem, "g_idx names a group that isn't there");
            }
        }

        var parts = new GroupedTensors(layout, file.Read(stem + "qweight"), file.Read(stem + "qzeros"), file.Read(stem + "scales", ScalarType.Float16), index);
        return index is null || index.NumberOfElements == parts.Inputs ? parts : throw QuantizedTensor.Invalid(file, stem, $"g_idx has {index.NumberOfElements} entries for {parts.Inputs} inputs");
    }

    private static NotSupportedByPeftException NotSupported(TensorStore file, string method, string what) =>
        new("QuantizationNotSupported", $"The weights in '{file.Path}' are quantised by {method} with {what}, which is not supported.")
        {
            Target = method,
            RecommendedAction = "Import the model's unquantised weights, or a GGUF file of it.",
        };
}
