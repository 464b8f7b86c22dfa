using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Models;

namespace Peft.Tests.Golden;

/// <summary>Which modules PEFT adapts in each family and how many parameters that makes, on structures without weights.</summary>
public class FamilyCountGoldenTests
{
    /// <summary>The peer's own errors, of which a compatible implementation does something better, are no cases.</summary>
    private const string PeerError = "error";

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void TargetsOfTinyModels(string path) => GoldenCases.Run("families", path, folder =>
    {
        var peft = JsonFile.ReadObject(Path.Combine(folder, "case.json")).GetProperty("peft");
        var unsupported = new List<NotSupportedByPeftException>();
        foreach (var entry in peft.GetProperty("targets").EnumerateObject().Where(static entry => !entry.Value.TryGetProperty(PeerError, out _)))
        {
            var arguments = new JsonObject { ["r"] = 4 };
            if (entry.Name.EndsWith("all-linear", StringComparison.Ordinal))
            {
                arguments["target_modules"] = "all-linear";
            }

            var method = entry.Name.Split(' ')[0].ToUpperInvariant();
            Unless(unsupported, () =>
            {
                using var model = Adapted(ModelConfig.FromFile(Path.Combine(folder, "config.json")), method, peft.GetProperty("task_type").GetString(), arguments);
                Compare(entry.Value, model, entry.Name);
                Assert.Equal(entry.Value.GetProperty("modules").EnumerateArray().Select(static name => name.GetString()!), Targeted(model));
            });
        }

        Report(unsupported);
    });

    [GoldenTheory]
    [GoldenFiles("families", "counts")]
    public void CountsOfPublishedModels(string name) => GoldenCases.Run("families", $"counts/{name}.json", file =>
    {
        var facts = JsonFile.ReadObject(file);
        if (!facts.TryGetProperty("methods", out var methods))
        {
            DefaultTables(facts);
            return;
        }

        var arguments = facts.GetProperty("arguments");
        var task = arguments.GetProperty("task_type").GetString();
        var unsupported = new List<NotSupportedByPeftException>();
        foreach (var method in methods.EnumerateObject().Where(static method => !method.Value.TryGetProperty(PeerError, out _)))
        {
            Unless(unsupported, () =>
            {
                using var model = Adapted(Config(facts), method.Value.GetProperty("type").GetString()!, task, JsonObject.Create(method.Value.GetProperty("arguments"))!);
                Compare(method.Value, model, method.Name);
                if (method.Value.TryGetProperty("targeted_modules", out var number))
                {
                    Assert.Equal(number.GetInt32(), Targeted(model).Count);
                }
            });
        }

        using var bare = ArchitectureRegistry.Create(Config(facts));
        bare.Prepare();
        Assert.Equal(facts.GetProperty("total").GetInt64(), bare.CountParameters());
        Report(unsupported);
    });

    private static ModelConfig Config(JsonElement facts)
    {
        var document = JsonObject.Create(facts.GetProperty("arguments").GetProperty("config"))!;
        document["model_type"] = facts.GetProperty("arguments").GetProperty("model_type").GetString();
        document["architectures"] = new JsonArray(facts.GetProperty("class").GetString());
        return new ModelConfig(document);
    }

    private static PeftModel Adapted(ModelConfig config, string method, string? task, JsonObject arguments)
    {
        var document = (JsonObject)arguments.DeepClone();
        document["peft_type"] = method;
        document["task_type"] = task;
        var adapter = AdapterConfig.FromJson(document);
        var structure = ArchitectureRegistry.Create(config);
        structure.Prepare();
        var model = new PeftModel(structure, "structure");
        model.AddAdapter(adapter);
        return model;
    }

    private static List<string> Targeted(PeftModel model) => [.. model.Base.NamedParameters()
        .Where(static named => (named.Parameter.Slot as AdapterSlot)?["default"] is not null)
        .Select(static named => named.Module.Path)
        .Distinct()
        .Order(StringComparer.Ordinal)];

    private static void Compare(JsonElement expected, PeftModel model, string what)
    {
        var counts = model.ParameterCounts;
        Assert.True(expected.GetProperty("trainable").GetInt64() == counts.Trainable, $"{what}: {counts.Trainable} trainable, expected {expected.GetProperty("trainable")}");
        Assert.True(expected.GetProperty("all").GetInt64() == counts.All, $"{what}: {counts.All} in all, expected {expected.GetProperty("all")}");
    }

    /// <summary>PEFT's default targets, one table a method, for the methods there are.</summary>
    private static void DefaultTables(JsonElement facts)
    {
        const string Suffix = "_target_modules";
        foreach (var table in facts.GetProperty("tables").EnumerateObject().Where(static table => table.Name.EndsWith(Suffix, StringComparison.Ordinal)))
        {
            var method = table.Name[..^Suffix.Length].ToUpperInvariant();
            if (Defaults(method) is not { } defaults)
            {
                continue;
            }

            foreach (var row in table.Value.EnumerateObject())
            {
                var expected = row.Value.ValueKind == JsonValueKind.Array ? string.Join(", ", row.Value.EnumerateArray()) : row.Value.GetString();
                Assert.Equal(expected, defaults.GetValueOrDefault(row.Name)?.ToString());
            }
        }
    }

    private static IReadOnlyDictionary<string, ModuleNames>? Defaults(string method)
    {
        try
        {
            return ((LayerwiseConfig)AdapterConfig.FromJson(new JsonObject { ["peft_type"] = method })).DefaultTargetModules;
        }
        catch (NotSupportedByPeftException)
        {
            return null;
        }
    }

    private static void Unless(List<NotSupportedByPeftException> unsupported, Action check)
    {
        try
        {
            check();
        }
        catch (NotSupportedByPeftException error)
        {
            unsupported.Add(error);
        }
    }

    // What there is has been held to the case; what is left makes it a skipped one.
    private static void Report(List<NotSupportedByPeftException> unsupported)
    {
        if (unsupported.Count > 0)
        {
            throw unsupported[0];
        }
    }
}
