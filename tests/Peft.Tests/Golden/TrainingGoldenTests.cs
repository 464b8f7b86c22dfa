using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Training;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Whole trainings against the peer's traces: losses, rates, norms, counts, first gradients, evaluations and final weights.</summary>
[Trait("Category", "Golden")]
public sealed class TrainingGoldenTests
{
    /// <summary>Options of the peer that say how data becomes batches, or where the peer runs: the case brings its batches along.</summary>
    private static readonly string[] s_beside =
    [
        "eval_strategy", "metric_for_best_model", "greater_is_better", "assistant_only_loss", "completion_only_loss", "packing", "packing_strategy", "max_length",
        "per_device_train_batch_size", "loss_type",
    ];

    private static readonly Dictionary<string, string> s_optimizers = new(StringComparer.Ordinal)
    {
        ["AdamW"] = "adamw_torch",
        ["Adam"] = "adam",
        ["SGD"] = "sgd",
        ["NAdam"] = "nadam",
        ["RAdam"] = "radam",
        ["adafactor"] = "adafactor",
        ["loraplus"] = "loraplus",
        ["lorafa"] = "lorafa",
        ["riemannian"] = "riemannian",
    };

    [GoldenTheory]
    [GoldenData("training", "methods/")]
    [GoldenData("training", "optimisers/")]
    [GoldenData("training", "schedules/")]
    [GoldenData("training", "sft/")]
    [GoldenData("training", "tasks/")]
    [GoldenData("training", "trainer/")]
    public void Training_goes_as_the_peers(string path) => GoldenCases.Run("training", path, folder =>
    {
        var document = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "case.json")))!;
        if (document["bound"] is not null)
        {
            CheckNoise(document);
            return;
        }

        var options = OptionsOf(document);
        using var model = PeftModel.Load(Path.Combine(folder, (string)document["base"]!));
        options = model.Base is CausalModel ? options : options with { Objective = ObjectiveRegistry.DefaultFor(model.Base) };
        LoadStart(model, folder);
        using var data = GoldenBatches.Open(
            Path.Combine(folder, (string?)document["batches"] ?? "batches.safetensors"),
            ObjectiveRegistry.Create(options).ExampleKind,
            countsFirst: !model.Base.ClassName.Contains("ForCausalLM", StringComparison.Ordinal));
        Run(document, folder, model, data, options);
    });

    [GoldenTheory]
    [GoldenData("training", "preference/")]
    public void Preference_training_goes_as_the_peers(string path) => GoldenCases.Run("training", path, folder =>
    {
        var document = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "case.json")))!;
        var options = PreferenceOptionsOf(document);
        ObjectiveRegistry.Create(options);
        using var model = PeftModel.Load(Path.Combine(folder, (string)document["base"]!));
        model.LoadAdapter(Path.Combine(folder, (string)document["adapter_init"]!));
        using var data = GoldenBatches.Open(Path.Combine(folder, (string?)document["batches"] ?? "batches.safetensors"));
        var record = Run(document, folder, model, data, options);
        CompareMetrics(document["logged"]!.AsArray(), record, Tolerance.Of(document["tolerance"]!));
    });

    /// <summary>Where the adapter's file holds less than what is trained, the case brings that along.</summary>
    private static void LoadStart(PeftModel model, string folder)
    {
        var (saved, trained) = (Path.Combine(folder, "adapter_init"), Path.Combine(folder, "trainable_init.safetensors"));
        if (!File.Exists(trained))
        {
            model.LoadAdapter(saved);
            return;
        }

        using var noGrad = no_grad();
        using var file = SafetensorsFile.Open(trained);
        var parameters = model.AddAdapter(AdapterConfig.FromFolder(saved)).TrainableParameters;
        Assert.Equal(parameters.Select(static parameter => parameter.FullKey).Order(StringComparer.Ordinal), file.Names.Select(Plain).Order(StringComparer.Ordinal));
        foreach (var name in file.Names)
        {
            parameters.Single(parameter => parameter.FullKey == Plain(name)).Parameter.Assign(file.Read(name));
        }
    }

    private static void CompareTrained(string folder, PeftModel model, Tolerance tolerance)
    {
        var trained = Path.Combine(folder, "trainable_final.safetensors");
        if (File.Exists(trained))
        {
            using var file = SafetensorsFile.Open(trained);
            foreach (var name in file.Names)
            {
                using var right = file.Read(name);
                tolerance.Compare(right, model["default"].TrainableParameters.Single(parameter => parameter.FullKey == Plain(name)).Parameter.Data, $"final {name}");
            }
        }
    }

    private static string Plain(string name) => name.Replace(".modules_to_save.default", "", StringComparison.Ordinal).Replace(".default", "", StringComparison.Ordinal);

    private static TrainingRecord Run(JsonNode document, string folder, PeftModel model, GoldenBatches data, TrainingOptions options)
    {
        var (trace, tolerance) = (document["trace"]!, Tolerance.Of(document["tolerance"]!));
        var weights = Tolerance.Of(document["tolerance_weights"]!);
        var norms = document["tolerance_gradient_norm"] is { } own ? Tolerance.Of(own) : tolerance;
        CompareEvaluation(trace["evaluation_before"], model, data, tolerance, "evaluation before");
        List<float> losses = [];
        List<long> items = [];
        List<IReadOnlyList<double>> rates = [];
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = data,
            EvaluationData = options.EvaluationInterval > 0 ? data.Take(2) : null,
            Options = options,
            OnStep = step =>
            {
                // Where the peer counts no items, its micro losses aren't divided yet.
                losses.AddRange(step.Losses.Select(loss => trace["num_items_in_batch"]?[0] is null ? loss * step.Items : loss));
                items.AddRange(step.Losses.Select(_ => step.Items));
                rates.Add(step.Rates);
                if (step.Step == 0)
                {
                    CompareGradients(Path.Combine(folder, "gradients_first_step.safetensors"), step.Parameters, norms);
                }
            },
        }).Train();

        tolerance.Compare(trace["loss"], [.. losses], "loss");
        norms.Compare(trace["gradient_norm"], [.. record.Steps.Select(step => step.GradientNorm)], "gradient norm");
        if (options.OptimizerOptions?["relative_step"] is null)
        {
            // Adafactor's own step sizes are one tensor in the peer, overwritten in every step: its trace holds the last value throughout.
            CompareRates(trace["learning_rate"]!.AsArray(), rates);
        }

        if (trace["num_items_in_batch"]?[0] is not null)
        {
            new Tolerance(0, 0).Compare(trace["num_items_in_batch"], [.. items.Select(count => (double)count)], "num_items_in_batch");
        }

        CompareEvaluation(trace["evaluation_after"], model, data, tolerance, "evaluation after");
        if (trace["evaluation_during"] is JsonArray during)
        {
            Assert.Equal(during.Select(entry => (int)entry![0]!), record.Evaluations.Select(entry => entry.Step));
            tolerance.Compare(new JsonArray([.. during.Select(entry => entry![1]!.DeepClone())]), [.. record.Evaluations.Select(entry => entry.Loss)], "evaluation during");
        }

        CompareTrained(folder, model, weights);
        CompareAdapters(folder, model, weights, document["undetermined_weights"]?["atol"] as JsonObject ?? []);
        return record;
    }

    private static TrainingOptions OptionsOf(JsonNode document)
    {
        var given = document["arguments"]!["training"]!.AsObject();
        var own = new JsonObject(given.Where(entry => !s_beside.Contains(entry.Key)).Select(entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone())));
        var options = TrainingOptions.FromJson(own.ToJsonString());
        Assert.True(options.Others is null or { Count: 0 }, $"nobody knows {string.Join(", ", options.Others?.Keys ?? [])}");
        options = options with
        {
            Objective = (string?)given["loss_type"] ?? "causal_language_modelling",
            BatchSize = 1,
            EvaluationBatchSize = 1,
            Sampling = "sequential",
        };
        if (document["arguments"]!["optimizer"] is not JsonObject optimizer)
        {
            return options;
        }

        var kind = (string)optimizer["kind"]!;
        var arguments = optimizer["options"]!.DeepClone().AsObject();
        options = options with
        {
            Optimizer = s_optimizers.GetValueOrDefault(kind, kind),
            LearningRate = (double?)arguments["lr"] ?? options.LearningRate,

            // The peer's own default where the case leaves it out.
            WeightDecay = (double?)arguments["weight_decay"] ?? (kind is "AdamW" or "riemannian" ? 0.01 : 0),
        };
        arguments.Remove("lr");
        arguments.Remove("weight_decay");
        if (kind == "adafactor")
        {
            arguments["scale_parameter"] = true;
            arguments["relative_step"] = true;
        }

        return options with { OptimizerOptions = arguments };
    }

    /// <summary>The peer's trainer names the objective; what it is given beside the objective's own options are those of any training.</summary>
    private static TrainingOptions PreferenceOptionsOf(JsonNode document)
    {
        string[] common = ["gradient_accumulation_steps", "max_steps", "learning_rate"];
        var (given, settings, trace) = (document["arguments"]!["training"]!.AsObject(), document["settings"]!, document["trace"]!);
        return new TrainingOptions
        {
            Objective = ((string)document["runner"]!).Replace("trl.", "", StringComparison.Ordinal).Replace("Trainer", "", StringComparison.Ordinal).ToLowerInvariant(),
            ObjectiveOptions = new JsonObject(given.Where(entry => !common.Contains(entry.Key)).Select(entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone()))),
            LearningRate = (double)trace["learning_rate"]![0]!,
            MaxSteps = trace["gradient_norm"]!.AsArray().Count,
            GradientAccumulation = (int?)given["gradient_accumulation_steps"] ?? 1,
            Schedule = (string)settings["lr_scheduler_type"]!,
            MaxGradientNorm = (double)settings["max_grad_norm"]!,
            WeightDecay = (double)settings["weight_decay"]!,
            BatchSize = 1,
            Sampling = "sequential",
        };
    }

    /// <summary>Every figure that the objective states and the peer logs.</summary>
    private static void CompareMetrics(JsonArray logged, TrainingRecord record, Tolerance tolerance)
    {
        Assert.Equal(logged.Count, record.StepCount);
        foreach (var (expected, step) in logged.Zip(record.Steps))
        {
            Assert.NotEmpty(step.Metrics!);
            foreach (var (name, value) in step.Metrics!)
            {
                tolerance.Compare(new JsonArray(expected![name]!.DeepClone()), [value], $"{name} of step {step.Step}");
            }
        }
    }

    private static void CompareEvaluation(JsonNode? expected, PeftModel model, GoldenBatches data, Tolerance tolerance, string what)
    {
        if (expected is null)
        {
            return;
        }

        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var metrics = new MetricSums();
        var context = new ForwardContext { Selection = model.CurrentSelection };
        var objective = ObjectiveRegistry.Create(new TrainingOptions { Objective = ObjectiveRegistry.DefaultFor(model.Base) });
        tolerance.Compare(
            expected,
            [.. data.Batches.Select(batch => Loss(new ObjectivePass(objective, model, batch, null, context, null, metrics)))],
            what);

        double Loss(ObjectivePass pass) => model["default"].Adapter.Loss(objective.Loss(pass), pass.Context).item<float>();
    }

    private static void CompareGradients(string file, FlatParameters parameters, Tolerance tolerance)
    {
        using var expected = SafetensorsFile.Open(file);
        var found = parameters.Entries.ToDictionary(entry => entry.Trained.Name, entry => entry.Gradient);
        foreach (var name in expected.Names)
        {
            var key = Plain(name);

            // A parameter that is a module's only one in memory is saved under the module's own name.
            key = found.ContainsKey(key) || !key.EndsWith(".weight", StringComparison.Ordinal) ? key : key[..^".weight".Length];
            Assert.True(found.ContainsKey(key), $"no gradient for {name}; there are {string.Join(", ", found.Keys)}");
            using var right = expected.Read(name);

            // A case states tolerances for losses, figures and final weights, none for single gradients: they are held to the loss's, which is
            // relative to values beyond 1, by the size of their tensor, since an element is a sum of terms of that size.
            var size = Math.Max(1, right.abs().max().item<float>());
            (tolerance with { Absolute = tolerance.Absolute * size }).Compare(right, found[key], $"first gradient of {name}");
        }
    }

    private static void CompareRates(JsonArray expected, List<IReadOnlyList<double>> actual)
    {
        Assert.Equal(expected.Count, actual.Count);
        for (var step = 0; step < actual.Count; step++)
        {
            var allowed = expected[step] is JsonArray several ? several.Select(rate => (double)rate!).ToArray() : [(double)expected[step]!];
            Assert.All(actual[step], rate => Assert.True(
                allowed.Any(right => Math.Abs(right - rate) <= 1e-8 * Math.Abs(right)), $"learning rate of step {step}: {rate} found, {string.Join(" or ", allowed)} expected"));
        }
    }

    private static void CompareAdapters(string folder, PeftModel model, Tolerance tolerance, JsonObject undetermined)
    {
        var saved = Directory.CreateTempSubdirectory("peft-training-").FullName;
        try
        {
            model.SaveAdapter("default", saved);
            using var expected = SafetensorsFile.Open(Path.Combine(folder, "adapter_final", "adapter_model.safetensors"));
            using var found = SafetensorsFile.Open(Path.Combine(saved, "adapter_model.safetensors"));
            Assert.Equal(expected.Names.Order(StringComparer.Ordinal), found.Names.Order(StringComparer.Ordinal));
            var free = undetermined.Select(entry => Plain(entry.Key)).ToHashSet();
            foreach (var name in expected.Names.Where(name => !free.Contains(name)))
            {
                using var right = expected.Read(name);
                using var ours = found.Read(name);
                tolerance.Compare(right, ours, $"final {name}");
            }
        }
        finally
        {
            Directory.Delete(saved, recursive: true);
        }
    }

    /// <summary>The noise on the embeddings is random; its bound and its distribution are not.</summary>
    private static void CheckNoise(JsonNode document)
    {
        var (length, width, bound) = ((long)document["length"]!, (long)document["width"]!, (double)document["bound"]!);
        var tolerance = (double)document["tolerance"]!["atol"]!;
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        const long Rows = 64;
        var noise = CausalLanguageModelling.AddNoise(
            zeros(Rows * length, width),
            (double)document["arguments"]!["neftune_noise_alpha"]!,
            new ForwardContext { Rows = Rows, Length = length, IsTraining = true, Generator = new Generator(1) }).to(ScalarType.Float64);
        Assert.InRange(noise.abs().max().item<double>(), bound - tolerance, bound);
        Assert.Equal(0, noise.mean().item<double>(), tolerance);
        Assert.Equal(bound * bound / 3, noise.pow(2).mean().item<double>(), tolerance * bound);
    }

    private sealed record Tolerance(double Absolute, double Relative)
    {
        public static Tolerance Of(JsonNode node) => new((double)node["atol"]!, (double)node["rtol"]!);

        public void Compare(JsonNode? expected, double[] actual, string what)
        {
            if (expected is not JsonArray values)
            {
                return;
            }

            Assert.Equal(values.Count, actual.Length);
            for (var i = 0; i < actual.Length; i++)
            {
                var right = (double)values[i]!;
                Assert.True(
                    Math.Abs(right - actual[i]) <= Absolute + (Relative * Math.Abs(right)) + Rounding(right), $"{what} {i}: {right:R} expected, {actual[i]:R} found");
            }
        }

        public void Compare(Tensor expected, Tensor actual, string what)
        {
            using var scope = NewDisposeScope();
            Assert.Equal(expected.shape, actual.shape);
            if (expected.numel() == 0)
            {
                return;
            }

            var difference = expected.sub(actual.to(expected.dtype)).abs();
            var worst = difference.sub(expected.abs().mul(Relative)).max().item<float>();
            Assert.True(worst <= Absolute, $"{what}: differs by {difference.max().item<float>():E2}, {Absolute:E1} allowed");
        }

        /// <summary>The case states nine significant digits.</summary>
        private static double Rounding(double value) => 5e-9 * Math.Abs(value);
    }
}
