using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>What the tests over <c>golden/adapters</c> share: files, bases, comparison.</summary>
internal static class AdapterGolden
{
    public const string Domain = "adapters";

    public static string PathOf(string relative) => GoldenCases.PathOf(Domain, relative);

    public static JsonObject Case(string folder) => Read(Path.Combine(folder, "case.json"));

    public static JsonObject Read(string path) => JsonObject.Create(JsonFile.ReadObject(path))!;

    public static Dictionary<string, Tensor> Tensors(string path)
    {
        using var file = SafetensorsFile.Open(path);
        return file.Names.ToDictionary(static name => name, name => file.Read(name).DetachFromDisposeScope());
    }

    public static void Free(params Dictionary<string, Tensor>[] tensors)
    {
        foreach (var tensor in tensors.SelectMany(static some => some.Values))
        {
            tensor.Dispose();
        }
    }

    /// <summary>A fresh base. A folder without a configuration holds a plain PyTorch module, which is no model of any family.</summary>
    public static PeftModel Base(string relative, string domain = Domain)
    {
        var folder = GoldenCases.PathOf(domain, relative);
        return File.Exists(Path.Combine(folder, "config.json"))
            ? new PeftModel(ModelLoader.Load(folder), Path.GetFileName(folder), folder)
            : new PeftModel(PlainModel.Load(folder), Path.GetFileName(folder));
    }

    /// <summary>Holds a tensor to absolute + relative tolerance.</summary>
    public static void AssertClose(Tensor expected, Tensor actual, JsonNode tolerance, string what)
    {
        using var scope = NewDisposeScope();
        Assert.True(expected.shape.SequenceEqual(actual.shape), $"{what}: shape [{string.Join(", ", actual.shape)}], expected [{string.Join(", ", expected.shape)}]");
        var right = expected.to(ScalarType.Float64);
        var gap = actual.to(ScalarType.Float64).sub(right).abs();
        var excess = gap.sub(right.abs().mul((double)tolerance["rtol"]!)).max().item<double>();
        Assert.True(excess <= (double)tolerance["atol"]!, FormattableString.Invariant($"{what}: largest difference {gap.max().item<double>():G3}, allowed {(double)tolerance["atol"]!:G3}"));
    }

    public static double Difference(Tensor one, Tensor other)
    {
        using var scope = NewDisposeScope();
        return one.to(ScalarType.Float64).sub(other.to(ScalarType.Float64)).abs().max().item<double>();
    }

    public static string[] Strings(JsonNode? node) => [.. (node as JsonArray ?? []).Select(static entry => (string)entry!)];

    /// <summary>A configuration equal but for what PEFT itself leaves open: the order of sets and of what it sorts as it writes, the release, the place of the base.</summary>
    public static string Canonical(JsonObject config)
    {
        var copy = (JsonObject)config.DeepClone();
        copy.Remove("peft_version");
        copy.Remove("base_model_name_or_path");
        foreach (var set in new[] { "target_modules", "exclude_modules", "modules_to_save", "feedforward_modules", "target_parameters" })
        {
            if (copy[set] is JsonArray names)
            {
                copy[set] = new JsonArray([.. names.Select(static name => (string)name!).Order(StringComparer.Ordinal).Select(static name => JsonValue.Create(name))]);
            }
        }

        foreach (var table in new[] { "rank_pattern", "alpha_pattern" })
        {
            if (copy[table] is JsonObject patterns)
            {
                copy[table] = new JsonObject(patterns.OrderBy(static entry => entry.Key, StringComparer.Ordinal).Select(static entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone())));
            }
        }

        return JsonSerializer.Serialize(copy);
    }
}
