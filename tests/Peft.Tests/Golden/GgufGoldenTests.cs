using System.Collections;
using System.Globalization;
using System.Text.Json;
using Peft.Files;
using Peft.Models;
using Peft.Models.Gguf;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>GGUF files as the Python package and transformers read them: metadata, places of tensors, values bit for bit.</summary>
public class GgufGoldenTests
{
    [GoldenTheory]
    [GoldenData("gguf")]
    public void MetadataAndTensorList(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        var expected = JsonFile.ReadObject(Path.Combine(folder, "case.json"));
        using var file = GgufFile.Open(Path.Combine(folder, "model.gguf"));

        JsonProperty[] metadata = [.. expected.GetProperty("metadata").EnumerateObject()];
        Assert.Equal(metadata.Select(property => property.Name).Order(StringComparer.Ordinal), file.Metadata.Keys.Order(StringComparer.Ordinal));
        foreach (var property in metadata)
        {
            var value = file.Metadata[property.Name];
            Assert.Equal(property.Value.GetProperty("types").EnumerateArray().Select(type => type.GetString()), TypeNames(value));
            Assert.Equal(Flat(property.Value.GetProperty("value")), Flat(value));
        }

        JsonElement[] tensors = [.. expected.GetProperty("tensor_list").EnumerateArray()];
        Assert.Equal(tensors.Select(tensor => tensor.GetProperty("name").GetString()), file.Names);
        foreach (var tensor in tensors)
        {
            var stored = file.Tensors[tensor.GetProperty("name").GetString()!];
            Assert.Equal(tensor.GetProperty("shape").EnumerateArray().Select(size => size.GetInt64()), stored.Entry.Shape);
            Assert.Equal(tensor.GetProperty("type").GetString(), stored.Entry.StoredType);
            Assert.Equal(tensor.GetProperty("offset").GetInt64(), stored.Offset);
            Assert.Equal(tensor.GetProperty("bytes").GetInt64(), stored.Length);
        }
    });

    [GoldenTheory]
    [GoldenData("gguf")]
    public void Values(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        var model = Path.Combine(folder, "model.gguf");
        using var file = GgufFile.Open(model);
        using var reference = SafetensorsFile.Open(Path.Combine(folder, "reference.safetensors"));
        var compared = 0;
        foreach (var name in reference.Names)
        {
            using var scope = NewDisposeScope();
            var parts = name.Split('.', 2);
            if (parts is ["dequantised", var quantised])
            {
                AssertSame(reference.Read(name), file.Read(quantised, ScalarType.Float32), name);
                compared++;
            }
            else if (parts is ["hf", var translated])
            {
                using var huggingFace = GgufModel.Open(model);
                AssertSame(reference.Read(name), huggingFace.Read(translated, ScalarType.Float32), name);
                compared++;
            }
            else if (file.Contains(name))
            {
                AssertSame(reference.Read(name), file.Read(name), name);
                compared++;
            }
            else
            {
                // What belongs to running the model, and the input of the quantiser.
                Assert.Contains(name, (string[])["input_ids", "logits", "values"]);
            }
        }

        Assert.True(compared > 0);
    });

    /// <summary>The reference may hold the first rows only.</summary>
    private static void AssertSame(Tensor expected, Tensor actual, string name)
    {
        Assert.True(expected.dtype == actual.dtype, $"{name}: {actual.dtype} instead of {expected.dtype}");
        var rows = expected.dim() > 0 ? actual.narrow(0, 0, expected.shape[0]) : actual;
        Assert.Equal(expected.shape, rows.shape);
        var difference = (expected.to(ScalarType.Float64) - rows.to(ScalarType.Float64)).abs().max();
        Assert.True(difference.item<double>() == 0, $"{name}: largest difference {difference.item<double>()}");
    }

    private static List<string> TypeNames(object value)
    {
        if (value is not Array array)
        {
            return [TypeName(value.GetType())];
        }

        var inner = array is object[] and not string[]? TypeNames(array.GetValue(0)!) : [TypeName(array.GetType().GetElementType()!)];
        return ["ARRAY", .. inner];
    }

    private static string TypeName(Type type) => Type.GetTypeCode(type) switch
    {
        TypeCode.Byte => "UINT8",
        TypeCode.SByte => "INT8",
        TypeCode.Boolean => "BOOL",
        TypeCode.Single => "FLOAT32",
        TypeCode.Double => "FLOAT64",
        TypeCode typeCode => typeCode.ToString().ToUpperInvariant(),
    };

    /// <summary>The Python package flattens arrays of arrays.</summary>
    private static List<string> Flat(object value) => value switch
    {
        JsonElement { ValueKind: JsonValueKind.Array } array => [.. array.EnumerateArray().SelectMany(element => Flat(element))],
        JsonElement { ValueKind: JsonValueKind.String } text => ["text " + text.GetString()],
        JsonElement { ValueKind: JsonValueKind.Number } number => [number.TryGetDecimal(out var whole) && whole == decimal.Truncate(whole)
            ? whole.ToString("F0", CultureInfo.InvariantCulture)
            : number.GetDouble().ToString("R", CultureInfo.InvariantCulture)],
        JsonElement truth => [truth.GetBoolean().ToString()],
        string text => ["text " + text],
        IEnumerable items => [.. items.Cast<object>().SelectMany(Flat)],
        float or double => [Flat(JsonSerializer.SerializeToElement(Convert.ToDouble(value, CultureInfo.InvariantCulture)))[0]],
        _ => [Convert.ToString(value, CultureInfo.InvariantCulture)!],
    };
}
