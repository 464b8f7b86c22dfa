using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization.Checkpoints;

/// <summary>
/// Weights as bitsandbytes saves them. Four bits: <c>weight</c> (packed), <c>weight.absmax</c>, <c>weight.quant_map</c>, with scales that are quantised in turn
/// <c>weight.nested_absmax</c> and <c>weight.nested_quant_map</c>, and <c>weight.quant_state.bitsandbytes__nf4</c>, whose bytes are JSON. Eight bits: <c>weight</c>,
/// <c>SCB</c> (largest magnitudes of the rows) and <c>weight_format</c>.
/// </summary>
internal static class BitsAndBytesTensors
{
    private const string StateMark = ".quant_state.bitsandbytes__";
    private const string ScaleEnd = ".SCB";

    /// <summary>The quantised weights of a file.</summary>
    public static IEnumerable<QuantizedTensor> Find(TensorStore file, QuantizationConfig config, ScalarType type)
    {
        foreach (var name in file.Names)
        {
            if (name.IndexOf(StateMark, StringComparison.Ordinal) is > 0 and var at)
            {
                yield return FourBit(file, name[..at], name, config);
            }
            else if (name.EndsWith(ScaleEnd, StringComparison.Ordinal))
            {
                yield return EightBit(file, name[..^ScaleEnd.Length], config, type);
            }
        }
    }

    /// <summary>The tensors that bitsandbytes saves of a four-bit weight.</summary>
    public static IEnumerable<(string Name, Tensor Tensor)> Stored(FourBitWeight weight, string name)
    {
        yield return (name, weight.Packed);
        yield return (name + ".absmax", weight.Scales);
        yield return (name + ".quant_map", tensor(weight.Type.Values.ToArray()));
        if (weight.NestedScales is { } nested)
        {
            yield return (name + ".nested_absmax", nested);
            yield return (name + ".nested_quant_map", tensor(DynamicMap.Signed.Values.ToArray()));
        }

        yield return (name + StateMark + weight.Type.Name, tensor(Encoding.ASCII.GetBytes(State(weight))));
    }

    /// <summary>The text of a weight's state, as Python's json writes it.</summary>
    private static string State(FourBitWeight weight)
    {
        var nested = weight.HasNestedScales
            ? FormattableString.Invariant($", \"nested_blocksize\": {FourBitWeight.NestedBlockSize}, \"nested_dtype\": \"float32\", \"nested_offset\": {Number(weight.NestedOffset)}")
            : "";
        return FormattableString.Invariant(
            $$"""{"quant_type": "{{weight.Type.Name}}", "blocksize": {{weight.BlockSize}}, "dtype": "{{TypeNames.Of(weight.DataType)}}", "shape": [{{weight.Shape[0]}}, {{weight.Shape[1]}}]{{nested}}}""");
    }

    /// <summary>The shortest text of a number, with a point: Python's.</summary>
    internal static string Number(double value)
    {
        var text = value.ToString("R", System.Globalization.CultureInfo.InvariantCulture).ToLowerInvariant();
        return text.AsSpan().IndexOfAny('.', 'e') < 0 ? text + ".0" : text;
    }

    private static QuantizedTensor FourBit(TensorStore file, string name, string stateName, QuantizationConfig config)
    {
        var state = ReadState(file, name, stateName);
        var fits = state is { BlockSize: > 0, Shape: [> 0, > 0] } && FourBitBlocks.Sizes.Contains(state.BlockSize) && state.NestedBlockSize is null or FourBitWeight.NestedBlockSize;
        if (!fits || !file.Contains(name) || !file.Contains(name + ".absmax"))
        {
            throw QuantizedTensor.Invalid(file, name, $"its state says {state}");
        }

        var type = FourBitType.Named(state.QuantType);
        string[] parts = [name, stateName, name + ".absmax", name + ".quant_map", name + ".nested_absmax", name + ".nested_quant_map"];
        return new QuantizedTensor(new TensorEntry(name, TypeNames.Parse(state.DataType), state.Shape, type.Name), parts)
        {
            Pack = place =>
            {
                RefuseOtherMap(file, name + ".quant_map", type.Values);
                var isNested = state.NestedBlockSize is not null;
                if (isNested)
                {
                    RefuseOtherMap(file, name + ".nested_quant_map", DynamicMap.Signed.Values);
                }

                // Bytes may be stored as elements of another type (bnb_4bit_quant_storage).
                var packed = file.MapBytes(name).view(-1, 1);
                var scales = file.Read(name + ".absmax").view(-1);
                var nested = isNested ? file.Read(name + ".nested_absmax").view(-1) : null;
                var count = TensorEntry.Product(state.Shape);
                if (packed.size(0) != (count + 1) / 2 || scales.size(0) != (count + state.BlockSize - 1) / state.BlockSize
                    || scales.dtype != (isNested ? ScalarType.Byte : ScalarType.Float32) || (nested is not null && nested.size(0) != (scales.size(0) + FourBitWeight.NestedBlockSize - 1) / FourBitWeight.NestedBlockSize))
                {
                    throw QuantizedTensor.Invalid(file, name, FormattableString.Invariant($"{packed.size(0)} bytes and {scales.size(0)} scales are not those of [{string.Join(", ", state.Shape)}]"));
                }

                return FourBitWeight.Of(
                    new FourBitParts(type, state.BlockSize, packed, scales, nested, state.NestedOffset), state.Shape, TypeNames.Parse(state.DataType), place, config.ComputeType);
            },
        };
    }

    private static QuantizedTensor EightBit(TensorStore file, string stem, QuantizationConfig config, ScalarType type)
    {
        var name = stem + ".weight";
        var (codes, scales) = (file.Entry(name), file.Entry(stem + ScaleEnd));
        if (codes is not { ScalarType: ScalarType.Int8, Shape: [var rows, _] } || scales.Count != rows)
        {
            throw QuantizedTensor.Invalid(file, name, $"{scales.Count} scales are not those of [{string.Join(", ", codes.Shape)}], {codes.StoredType}");
        }

        return new QuantizedTensor(codes with { ScalarType = type }, [name, stem + ScaleEnd, stem + ".weight_format"])
        {
            Pack = place =>
            {
                // 0 is by rows; the others are layouts of GPU kernels that no release writes any more.
                var format = stem + ".weight_format";
                if (file.Contains(format) && file.Read(format).ne(0).any().item<bool>())
                {
                    throw new NotSupportedByPeftException("QuantizationNotSupported", $"'{format}' of '{file.Path}' says that the weight isn't stored by rows.") { Target = format };
                }

                return Int8Weight.Of(file.Map(name), file.Read(stem + ScaleEnd, ScalarType.Float32).view(-1), type, config.Threshold, place);
            },
        };
    }

    private static FourBitState ReadState(TensorStore file, string name, string stateName)
    {
        using var text = file.ReadBytes(stateName);
        try
        {
            var state = JsonNode.Parse(text.data<byte>().ToArray())!;
            return new FourBitState(
                (string)state["quant_type"]!,
                (int)state["blocksize"]!,
                (string)state["dtype"]!,
                [.. state["shape"]!.AsArray().Select(static size => (long)size!)],
                (int?)state["nested_blocksize"],
                (float?)(double?)state["nested_offset"] ?? 0);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or FormatException or ArgumentException or NullReferenceException)
        {
            throw QuantizedTensor.Invalid(file, name, $"'{stateName}' holds no state");
        }
    }

    private static void RefuseOtherMap(TensorStore file, string name, ReadOnlySpan<float> known)
    {
        if (!file.Contains(name))
        {
            return;
        }

        using var map = file.Read(name, ScalarType.Float32);
        var values = map.data<float>().ToArray();
        for (var i = 0; i < known.Length || i < values.Length; i++)
        {
            if (i >= known.Length || i >= values.Length || MathF.Abs(values[i] - known[i]) > 1e-6f)
            {
                throw new NotSupportedByPeftException("QuantizationNotSupported", $"'{name}' of '{file.Path}' is another table of values than bitsandbytes'.") { Target = name };
            }
        }
    }

    private sealed record FourBitState(string QuantType, int BlockSize, string DataType, long[] Shape, int? NestedBlockSize, float NestedOffset);
}
