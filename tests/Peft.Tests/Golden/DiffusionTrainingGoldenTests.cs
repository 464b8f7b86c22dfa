using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion;
using Peft.Files;
using Peft.Tensors;
using Peft.Tests.Models;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Diffusion trainings with given latents, noise and timesteps against diffusers': losses, norms, rates, and what was learnt.</summary>
public sealed class DiffusionTrainingGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "training/")]
    public void Training_goes_as_diffusers_does(string path) => GoldenCases.Run("diffusion", path, static folder =>
    {
        using var scope = NewDisposeScope();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        var arguments = expected.GetProperty("arguments");
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        using var initial = SafetensorsFile.Open(Path.Combine(folder, "initial.safetensors"));
        using var final = SafetensorsFile.Open(Path.Combine(folder, "pytorch_lora_weights.safetensors"));
        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", arguments.GetProperty("model").GetString()!));
        var targets = initial.Names.Select(static name => name[..name.LastIndexOf(".lora_", StringComparison.Ordinal)]).Select(static name => Own(name)).Distinct().ToArray();
        var adapter = model.AddAdapter(
            new LoraConfig { Rank = arguments.GetProperty("rank").GetInt32(), Alpha = arguments.GetProperty("lora_alpha").GetDouble(), TargetModules = ModuleNames.Of(targets) }, "a");
        Assert.Equal(initial.Names.Count, adapter.TrainableParameters.Count);
        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Assign(initial.Read(Key(initial, parameter.FullKey)));
        }

        var losses = new List<float>();
        var norms = new List<float>();
        var rates = new List<double>();
        var accumulate = Optional(arguments, "accumulate") is { } several ? several.GetInt32() : 1;
        using var data = new GivenNoise(recorded, arguments, ((ILatentDiffusion)model.Base).Tokenize("").Count);
        new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "a",
            Data = data,
            Options = Options(arguments, accumulate),
            OnStep = step =>
            {
                losses.AddRange(step.Losses.Select(loss => loss * accumulate));
                norms.Add(step.Parameters.Gradients.norm().item<float>());
                rates.Add(step.Rates[0]);
            },
        }).Train();
        var tolerance = expected.GetProperty("tolerance_of_losses");
        TensorAssert.Close(recorded.Read("losses"), tensor(losses.ToArray()), tolerance, "losses");
        TensorAssert.Close(recorded.Read("grad_norms"), tensor(norms.ToArray()), tolerance, "norms");
        TensorAssert.Close(recorded.Read("learning_rates"), tensor(rates.ToArray()), tolerance, "rates");
        foreach (var parameter in adapter.TrainableParameters)
        {
            TensorAssert.Close(final.Read(Key(final, parameter.FullKey)), parameter.Parameter.Data, expected.GetProperty("tolerance"), parameter.FullKey);
        }
    });

    internal static TrainingOptions Options(JsonElement arguments, int accumulate)
    {
        var own = new JsonObject();
        foreach (var (name, option) in new[] { ("snr_gamma", "snr_gamma"), ("prior", "prior_loss_weight") })
        {
            if (Optional(arguments, name) is { } value)
            {
                own[option] = value.GetDouble();
            }
        }

        var schedule = (Optional(arguments, "lr_scheduler")?.GetString() ?? "constant").Split(", ");
        var betas = arguments.GetProperty("betas");
        return new TrainingOptions
        {
            Objective = "denoising",
            ObjectiveOptions = own,
            MaxSteps = arguments.GetProperty("steps").GetInt32(),
            BatchSize = 1,
            GradientAccumulation = accumulate,
            Sampling = "sequential",
            LearningRate = arguments.GetProperty("lr").GetDouble(),
            Schedule = schedule[0],
            Warmup = schedule.Length > 1 ? int.Parse(schedule[1].Split(' ')[0], System.Globalization.CultureInfo.InvariantCulture) : 0,
            WeightDecay = arguments.GetProperty("weight_decay").GetDouble(),
            MaxGradientNorm = Optional(arguments, "max_grad_norm")?.GetDouble() ?? 0,
            Beta1 = betas[0].GetDouble(),
            Beta2 = betas[1].GetDouble(),
            Epsilon = arguments.GetProperty("eps").GetDouble(),
        };
    }

    private static JsonElement? Optional(JsonElement arguments, string name) => arguments.TryGetProperty(name, out var value) ? value : null;

    // Text encoders have their first modules at the root in one version of transformers, and below text_model in others.
    private static string Own(string name) => name.StartsWith("text_encoder.", StringComparison.Ordinal) ? name["text_encoder.".Length..] : name;

    private static string Key(SafetensorsFile file, string fullKey)
    {
        var plain = fullKey.Replace("base_model.model.", "", StringComparison.Ordinal);
        return file.Contains(plain) ? plain : plain.Replace("text_encoder.text_model.", "text_encoder.", StringComparison.Ordinal);
    }

    /// <summary>The recorded micro batches, one a row.</summary>
    internal sealed class GivenNoise(SafetensorsFile recorded, JsonElement arguments, int encoders) : ITrainingData, IDisposable
    {
        private readonly Tensor _latents = recorded.Read("latents");
        private readonly Tensor _ids = recorded.Read("input_ids");
        private readonly Tensor _timesteps = recorded.Read("timesteps");
        private readonly Tensor _noise = Optional(arguments, "noise_offset") is { } offset ? recorded.Read("noise").add(recorded.Read("offset_noise"), offset.GetDouble()) : recorded.Read("noise");

        public int Count => (int)_noise.size(0);

        public string Fingerprint => "";

        public ExampleKind ExampleKind => ExampleKind.Image;

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) => new DiffusionBatch(_ids.clone(), _latents.clone())
        {
            MoreIds = [.. Enumerable.Range(1, encoders - 1).Select(_ => _ids.clone())],
            Noise = _noise[rows[0]].clone(),
            Timesteps = [.. _timesteps[rows[0]].data<long>().Select(static timestep => (int)timestep)],
            PriorRows = Optional(arguments, "prior") is null ? 0 : _latents.size(0) / 2,
            TokenCount = _ids.numel(),
            TargetCount = _latents.size(0),
        };

        public void Dispose()
        {
            foreach (var tensor in new[] { _latents, _ids, _timesteps, _noise })
            {
                tensor.Dispose();
            }
        }
    }
}
