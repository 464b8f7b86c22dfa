using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.PrefixTuning;
using Peft.Adapters.Methods.Prompts;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Tests.Golden;

/// <summary>Which modules PEFT adapts in each family and how many parameters that makes, on structures without weights.</summary>
public class FamilyCountGoldenTests
{
    /// <summary>The peer's own errors, of which a compatible implementation does something better, are no cases.</summary>
    private const string PeerError = "error";

    private const string LanguageModel = "model.language_model";

    /// <summary>A part of its own where it isn't tied to the embedding.</summary>
    private const string OutputLayer = "lm_head";

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void TargetsOfTinyModels(string path) => GoldenCases.Run("families", path, folder =>
    {
        var facts = JsonFile.ReadObject(Path.Combine(folder, "case.json"));
        var peft = facts.GetProperty("peft");
        var carried = FamilyGoldenTests.CarriedPrefixes(facts);
        var carriedCount = JsonFile.Read(Path.Combine(folder, "modules.json")).EnumerateArray()
            .Where(row => IsCarried(row[0].GetString()!, carried)).Sum(static row => row[2].GetInt64());
        var unsupported = new List<NotSupportedByPeftException>();
        foreach (var entry in peft.GetProperty("targets").EnumerateObject().Where(static entry => !entry.Value.TryGetProperty(PeerError, out _)))
        {
            var method = entry.Name.Split(' ')[0].ToUpperInvariant();
            var arguments = method == "ADALORA"
                ? new JsonObject { ["init_r"] = 4, ["target_r"] = 2, ["total_step"] = 100 }
                : new JsonObject { ["r"] = 4 };
            if (entry.Name.EndsWith("all-linear", StringComparison.Ordinal))
            {
                arguments["target_modules"] = "all-linear";
            }

            Unless(unsupported, () =>
            {
                using var model = Adapted(ModelConfig.FromFile(Path.Combine(folder, "config.json")), method, peft.GetProperty("task_type").GetString(), arguments);
                Compare(entry.Value, model, entry.Name, carriedCount);
                var modules = entry.Value.GetProperty("modules").EnumerateArray().Select(static name => name.GetString()!);
                Assert.Equal(modules.Where(name => !IsCarried(name, carried)), Targeted(model));
            });
        }

        Report(unsupported);
    });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void LoraReachesEveryFamilyWithoutBeingToldWhere(string path) => GoldenCases.Run("families", path, folder =>
    {
        var task = JsonFile.ReadObject(Path.Combine(folder, "case.json")).GetProperty("peft").GetProperty("task_type").GetString();
        using var model = Adapted(ModelConfig.FromFile(Path.Combine(folder, "config.json")), "LORA", task, []);
        Assert.NotEmpty(Targeted(model));
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
        var carriedCount = !facts.TryGetProperty("parts", out var parts) ? 0
            : parts.EnumerateObject().Where(static part => part.Name is not (LanguageModel or OutputLayer)).Sum(static part => part.Value.GetInt64());
        var unsupported = new List<NotSupportedByPeftException>();
        foreach (var method in methods.EnumerateObject().Where(static method => !method.Value.TryGetProperty(PeerError, out _)))
        {
            Unless(unsupported, () =>
            {
                using var model = Adapted(Config(facts), method.Value.GetProperty("type").GetString()!, task, JsonObject.Create(method.Value.GetProperty("arguments"))!);
                Compare(method.Value, model, method.Name, carriedCount);
                if (method.Value.TryGetProperty("targeted_modules", out var number) && OfText(method.Value) == method.Value.GetProperty("trainable").GetInt64())
                {
                    Assert.Equal(number.GetInt32(), Targeted(model).Count);
                }
            });
        }

        using var bare = ArchitectureRegistry.Create(Config(facts));
        bare.Prepare();
        Assert.Equal(facts.GetProperty("total").GetInt64() - carriedCount, bare.CountParameters());
        Report(unsupported);
    });

    private static bool IsCarried(string path, IReadOnlyList<string> prefixes) => prefixes.Any(prefix => $"{path}.".StartsWith(prefix, StringComparison.Ordinal));

    /// <summary>What an adapter trains of the language model, without the other parts of a model of several.</summary>
    private static long OfText(JsonElement expected) =>
        (expected.TryGetProperty("trainable_of_text", out var text) ? text : expected.GetProperty("trainable")).GetInt64();

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

    // Experts and routers are reached as parameters, which the peer counts but does not list.
    private static List<string> Targeted(PeftModel model) => [.. model.Base.NamedParameters()
        .Where(static named => named.Module is IAdaptable and not Router && (named.Parameter.Slot as AdapterSlot)?["default"] is not null)
        .Select(static named => named.Module.Path)
        .Distinct()
        .Order(StringComparer.Ordinal)];

    /// <summary>Holds the counts to the peer's, without what is carried along and what the peer adapts of that.</summary>
    private static void Compare(JsonElement expected, PeftModel model, string what, long carried)
    {
        var counts = model.ParameterCounts;
        var trainable = OfText(expected);
        var all = expected.GetProperty("all").GetInt64() - carried - (expected.GetProperty("trainable").GetInt64() - trainable);
        if (KeysAreNarrower(model.Base.Config) && model["default"].Config is PrefixTuningConfig prefix)
        {
            // The peer's prefix is as wide as the model, and fits no layer: it fails in every pass.
            var fitting = trainable / model.Base.Backbone.Width * prefix.TokenWidth!.Value;
            (trainable, all) = (fitting, all - trainable + fitting);
        }

        if (model.Base.Config.Integer("word_embed_proj_dim") is { } embedding && embedding != model.Base.Config.Integer("hidden_size") && model["default"].Config is PromptConfig prompt and not PrefixTuningConfig)
        {
            // The peer's prompt is as wide as what the blocks compute with, and fits no embedding: it fails in every pass.
            Assert.Equal(embedding, (long?)prompt.TokenWidth);
            return;
        }

        Assert.True(trainable == counts.Trainable, $"{what}: {counts.Trainable} trainable, expected {trainable}");
        Assert.True(all == counts.All, $"{what}: {counts.All} in all, expected {all}");
    }

    private static bool KeysAreNarrower(ModelConfig config) =>
        config.Integer("d_kv") is { } size && config.Integer("num_heads") is { } heads && config.Integer("d_model") is { } width && size * heads != width;

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
