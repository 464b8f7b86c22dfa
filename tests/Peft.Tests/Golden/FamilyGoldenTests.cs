using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Models;
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
        Assert.Equal(File.ReadAllText(Path.Combine(folder, "print.txt")), ModuleText.Print(model) + "\n");
        var expected = JsonFile.Read(Path.Combine(folder, "modules.json")).EnumerateArray().Select(static row => row.GetRawText().Replace(" ", "", StringComparison.Ordinal));
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
        switch (model)
        {
            case CausalModel causal:
                CausalFamilyCase.Run(causal, recorded, expected);
                break;
            case SequenceClassificationModel classifier:
                ClassifierFamilyCase.Run(classifier, recorded, expected);
                break;
            default:
                Assert.Fail($"no runner for {model.GetType().Name}");
                break;
        }
    });
}

/// <summary>What a case records of a model that continues text.</summary>
internal static class CausalFamilyCase
{
    public static void Run(CausalModel model, TensorStore recorded, JsonElement expected)
    {
        foreach (var batch in new[] { "plain", "padded" })
        {
            Outputs(model, recorded, expected.GetProperty("tolerance"), batch);
        }

        FamilyGradients.Check(model, recorded, expected, context =>
        {
            var hidden = model.Hidden(recorded.Read("padded.input_ids"), context);
            return model.Loss(hidden, recorded.Read("padded.labels"), divisor: null, context);
        });
        var tolerance = expected.GetProperty("generation").GetProperty("tolerance");
        Generation(model, recorded, tolerance, "generate", useCache: true);

        // Logits without a cache are recorded where the tokens differ; where only the tokens are the same (positions that depend on the length), they alone are held.
        var without = recorded.Contains("generate_without_cache.sequences") ? "generate_without_cache" : "generate";
        Generation(model, recorded, without == "generate" ? null : tolerance, without, useCache: false);
    }

    private static void Outputs(CausalModel model, TensorStore recorded, JsonElement tolerance, string batch)
    {
        var ids = recorded.Read($"{batch}.input_ids");
        var mask = recorded.Contains($"{batch}.attention_mask") ? recorded.Read($"{batch}.attention_mask") : null;
        var context = new ForwardContext { AttentionMask = mask };
        var hidden = model.Hidden(ids, context);
        Compare("hidden", hidden);
        Compare("logits", model.Logits(hidden, context));
        TensorAssert.Close(recorded.Read($"{batch}.loss"), model.Loss(hidden, recorded.Read($"{batch}.labels"), null, context), tolerance, $"{batch}.loss");

        void Compare(string name, Tensor actual)
        {
            var wanted = recorded.Read($"{batch}.{name}").flatten(0, 1);
            var visible = mask?.reshape(-1).eq(1).nonzero().squeeze(1);
            TensorAssert.Close(
                visible is null ? wanted : wanted.index_select(0, visible),
                visible is null ? actual : actual.index_select(0, visible),
                tolerance,
                $"{batch}.{name}");
        }
    }

    private static void Generation(CausalModel model, TensorStore recorded, JsonElement? tolerance, string name, bool useCache)
    {
        var ids = recorded.Read("generate.input_ids");
        var mask = recorded.Read("generate.attention_mask");
        var wanted = recorded.Read($"{name}.step_logits");
        using var cache = new KeyValueCache();
        var all = ids;
        var next = ids;
        for (var step = 0; step < wanted.size(0); step++)
        {
            var positions = mask.cumsum(1).sub(1).clamp_min(0);
            var input = useCache ? next : all;
            var context = new ForwardContext
            {
                AttentionMask = mask,
                Cache = useCache ? cache : null,
                Positions = positions.narrow(1, positions.size(1) - input.size(1), input.size(1)),
            };
            var hidden = model.Hidden(input, context).view(input.size(0), input.size(1), -1);
            var logits = model.Logits(hidden.select(1, input.size(1) - 1), context);
            if (tolerance is { } allowed)
            {
                TensorAssert.Close(wanted[step], logits, allowed, $"{name} step {step.ToString(CultureInfo.InvariantCulture)}");
            }

            next = logits.argmax(1, keepdim: true);
            all = cat([all, next], 1);
            mask = cat([mask, ones_like(next)], 1);
        }

        TensorAssert.Close(recorded.Read($"{name}.sequences"), all, 0, 0, $"{name}.sequences");
    }
}

/// <summary>What a case records of a model that classifies rows.</summary>
internal static class ClassifierFamilyCase
{
    public static void Run(SequenceClassificationModel model, TensorStore recorded, JsonElement expected)
    {
        var tolerance = expected.GetProperty("tolerance");
        foreach (var batch in new[] { "plain", "padded" })
        {
            var context = Context(recorded, batch);
            var logits = model.Logits(recorded.Read($"{batch}.input_ids"), context);
            TensorAssert.Close(recorded.Read($"{batch}.logits"), logits, tolerance, $"{batch}.logits");
            TensorAssert.Close(recorded.Read($"{batch}.loss"), model.Loss(logits, recorded.Read($"{batch}.labels"), context), tolerance, $"{batch}.loss");
        }

        FamilyGradients.Check(model, recorded, expected, context =>
            model.Loss(model.Logits(recorded.Read("padded.input_ids"), context), recorded.Read("padded.labels"), context));
    }

    private static ForwardContext Context(TensorStore recorded, string batch) => new()
    {
        AttentionMask = recorded.Contains($"{batch}.attention_mask") ? recorded.Read($"{batch}.attention_mask") : null,
    };
}

/// <summary>Gradients of all weights: those recorded in full, and the norm of every one, with and without recomputed blocks.</summary>
internal static class FamilyGradients
{
    public static void Check(PretrainedModel model, TensorStore recorded, JsonElement expected, Func<ForwardContext, Tensor> loss)
    {
        foreach (var checkpointing in new[] { false, true })
        {
            using var scope = NewDisposeScope();
            var parameters = model.NamedParameters().Where(static named => named.Parameter.IsOwner).ToArray();
            foreach (var (_, parameter, _) in parameters)
            {
                parameter.Gradient = zeros([.. parameter.Shape]);
            }

            using var tape = new Tape();
            var value = loss(new ForwardContext { AttentionMask = recorded.Read("padded.attention_mask"), Tape = tape, Checkpointing = checkpointing });
            tape.Backward(value);
            var tolerance = expected.GetProperty("gradient_tolerance");
            var norms = expected.GetProperty("gradient_norms");
            foreach (var (path, parameter, _) in parameters)
            {
                if (recorded.Contains($"gradient.{path}"))
                {
                    TensorAssert.Close(recorded.Read($"gradient.{path}"), parameter.Gradient!, tolerance, $"gradient of {path}");
                }

                var wanted = norms.TryGetProperty(path, out var norm) ? norm.GetDouble() : 0;
                var allowed = tolerance.GetProperty("atol").GetDouble() * Math.Sqrt(parameter.Count) + (1e-5 * wanted);
                Assert.InRange(parameter.Gradient!.to(ScalarType.Float64).norm().item<double>(), wanted - allowed, wanted + allowed);
                parameter.Gradient = null;
            }
        }
    }
}
