using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Model families as transformers computes them: outputs, losses, gradients, greedy generation, the module tree and its print.</summary>
public class FamilyGoldenTests
{
    internal const string ModelFile = "model.safetensors";

    [GoldenTheory]
    [GoldenData("families", Holding = ModelFile)]
    public void SavedConfiguration(string path) => RunModel(path, static folder => ModelConfig.FromFile(Path.Combine(folder, "config.json")));

    [GoldenTheory]
    [GoldenData("families", Holding = ModelFile)]
    public void PublishedConfiguration(string path) => RunModel(path, static folder =>
    {
        var arguments = JsonFile.ReadObject(Path.Combine(folder, "case.json")).GetProperty("arguments");
        var document = JsonObject.Create(arguments.GetProperty("config"))!;
        document["model_type"] = arguments.GetProperty("model_type").GetString();
        document["architectures"] = new JsonArray(arguments.GetProperty("class").GetString());
        return new ModelConfig(document);
    });

    [GoldenTheory]
    [GoldenData("families", Holding = "modules.json")]
    public void ModuleTreeAndPrint(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = ModelLoader.Load(folder, new LoadOptions { StructureOnly = true });
        var carried = CarriedPrefixes(JsonFile.ReadObject(Path.Combine(folder, "case.json")));
        Assert.Equal(WithoutModules(File.ReadAllText(Path.Combine(folder, "print.txt")), carried), ModuleText.Print(model) + "\n");
        var expected = JsonFile.Read(Path.Combine(folder, "modules.json")).EnumerateArray()
            .Where(row => !carried.Any(prefix => $"{row[0].GetString()}.".StartsWith(prefix, StringComparison.Ordinal)))
            .Select(static row => row.GetRawText().Replace(" ", "", StringComparison.Ordinal));
        Assert.Equal(expected, model.Descendants().Select(module => Row(module, model)));
    });

    [GoldenTheory]
    [GoldenData("families", Holding = ModelFile)]
    public void SavedWeightsAreTheSame(string path) => GoldenCases.Run("families", path, folder =>
    {
        var target = Path.Combine(Path.GetTempPath(), "peft-" + Guid.NewGuid().ToString("N"));
        try
        {
            using (var model = ModelLoader.Load(folder))
            {
                ModelLoader.Save(model, target, maxShardBytes: 20_000);
            }

            using var scope = NewDisposeScope();
            using var original = TensorStore.OpenFolder(folder);
            using var saved = TensorStore.OpenFolder(target);
            Assert.Equal(original.Names.Order(StringComparer.Ordinal), saved.Names.Order(StringComparer.Ordinal));
            foreach (var name in original.Names)
            {
                TensorAssert.Close(original.Read(name), saved.Read(name), 0, 0, name);
            }
        }
        finally
        {
            if (Directory.Exists(target))
            {
                Directory.Delete(target, recursive: true);
            }
        }
    });

    /// <summary>Where the modules stand that a model of several parts has beside its language model: they are carried along, not made.</summary>
    internal static IReadOnlyList<string> CarriedPrefixes(JsonElement facts) => facts.TryGetProperty("carried", out var carried)
        ? [.. carried.GetProperty("prefixes").EnumerateArray().Select(static prefix => prefix.GetString()!)]
        : [];

    /// <summary>A printed tree without some of its modules.</summary>
    private static string WithoutModules(string print, IReadOnlyList<string> prefixes)
    {
        var kept = new List<string>();
        var path = new List<string>();
        foreach (var line in print.Split('\n'))
        {
            // Two blanks a level; a closing bracket belongs to the module that it closes.
            var text = line.TrimStart(' ');
            var depth = (line.Length - text.Length) / 2;
            if (text.StartsWith('('))
            {
                path.RemoveRange(Math.Min(path.Count, Math.Max(0, depth - 1)), Math.Max(0, path.Count - Math.Max(0, depth - 1)));
                path.Add(text[1..text.IndexOf(')', StringComparison.Ordinal)]);
            }

            var name = string.Join('.', path.Take(depth)) + ".";
            if (!prefixes.Any(prefix => name.StartsWith(prefix, StringComparison.Ordinal)))
            {
                kept.Add(line);
            }
        }

        return string.Join('\n', kept);
    }

    private static string Row(Peft.Models.Module module, PretrainedModel model)
    {
        // A parameter that shares another's weights is the other's: the peer lists both under their own modules.
        var own = string.Join(",", module.Parameters.Select(static parameter => $"[\"{parameter.Name}\",[{string.Join(",", parameter.Shape)}]]"));
        var count = module.Parameters.Sum(static parameter => parameter.Count);
        var name = ReferenceEquals(module, model) ? "" : module.Path;
        return string.Create(CultureInfo.InvariantCulture, $"[\"{name}\",\"{module.ClassName}\",{count},[{own}]]");
    }

    private static void RunModel(string path, Func<string, ModelConfig> configuration) => GoldenCases.Run("families", path, folder =>
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = ArchitectureRegistry.Create(configuration(folder));
        using var weights = TensorStore.OpenFolder(folder);
        ModelLoader.LoadWeights(model, weights);
        using var recorded = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        var expected = JsonFile.ReadObject(Path.Combine(folder, "case.json"));
        FamilyCase.Run(model, recorded, expected);
    });
}
