using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion.Models;
using Peft.Diffusion.Schedulers;
using Peft.Diffusion.Training;
using Peft.Models;
using Peft.Training;
using Peft.Training.Objectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>LoRA of rank 4 on the attention of a UNet of Stable Diffusion 1.5's shape, one image of 512 x 512 pixels a step.</summary>
internal static class DiffusionTrainingBenchmark
{
    private const int WarmUp = 2;

    /// <summary>Tokens of a text.</summary>
    internal const int TextLength = 77;

    /// <summary>Positions of the latents in each direction.</summary>
    internal const int Side = 64;

    /// <summary>The job in a type, beside the peer's.</summary>
    public static Benchmark Job(UNetShape shape, ScalarType type, int steps, bool checkpointing = false)
    {
        var name = type == ScalarType.BFloat16 ? "bfloat16" : "float32";
        string[] peer = ["diffusion", "--unet", shape.PeerName, "--dtype", name, "--steps", $"{steps}", .. checkpointing ? ["--checkpointing"] : Array.Empty<string>()];
        return new Benchmark($"train-{shape.Name}-{TrainingBenchmark.Label(type)}{(checkpointing ? "-recompute" : "")}", "steps/s", () => Measure(shape, type, steps, checkpointing), peer, "steps_per_second");
    }

    private static BenchmarkFigure Measure(UNetShape shape, ScalarType type, int steps, bool checkpointing)
    {
        using var model = new PeftModel(Create(shape, type), "unet");
        model.AddAdapter(new LoraConfig { Rank = 4, Alpha = 4, TargetModules = ModuleNames.Of("to_k", "to_q", "to_v", "to_out.0") });
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = new RandomLatents(steps + WarmUp),
            Objective = new NoiseObjective(shape.TextWidth),
            Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = 1, MaxSteps = steps + WarmUp, GradientCheckpointing = checkpointing },
        }).Train();
        var seconds = record.Steps.Zip(record.Steps.Skip(1), static (before, after) => after.Seconds - before.Seconds).Skip(WarmUp - 1).Order().ToArray();
        return new BenchmarkFigure(1 / seconds[seconds.Length / 2]);
    }

    /// <summary>The UNet with random weights.</summary>
    internal static UNet2DConditionModel Create(UNetShape shape, ScalarType type)
    {
        using var noGrad = no_grad();
        var model = new UNet2DConditionModel(new ModelConfig(new JsonObject
        {
            ["sample_size"] = Side,
            ["in_channels"] = 4,
            ["out_channels"] = 4,
            ["layers_per_block"] = 2,
            ["block_out_channels"] = new JsonArray([.. shape.Channels.Select(static width => (JsonNode)width)]),
            ["cross_attention_dim"] = shape.TextWidth,
            ["attention_head_dim"] = shape.Heads,
            ["down_block_types"] = new JsonArray("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            ["up_block_types"] = new JsonArray("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        }));
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            using var scope = NewDisposeScope();
            long[] sizes = [.. parameter.Shape];
            parameter.Assign((sizes.Length == 1 ? ones(sizes, type) : randn(sizes, type).mul_(1 / Math.Sqrt(sizes[1..].Aggregate(1L, static (product, size) => product * size)))).DetachFromDisposeScope());
        }

        model.Prepare();
        return model;
    }

    private sealed class RandomLatents(int count) : ITrainingData
    {
        public int Count => count;

        public string Fingerprint => "random";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) =>
            new(zeros([rows.Count, 1], ScalarType.Int64, device), randn([rows.Count, 4, Side, Side], ScalarType.Float32, device)) { TokenCount = rows.Count, TargetCount = rows.Count };
    }

    private sealed class NoiseObjective(int textWidth) : IObjective
    {
        private readonly NoiseTargets _targets = new(new NoiseLevels(new SchedulerConfig(new JsonObject { ["beta_start"] = 0.00085, ["beta_end"] = 0.012, ["beta_schedule"] = "scaled_linear" })));

        public string Name => "noise";

        public long Items(TrainingBatch batch) => 1;

        public Tensor Loss(ObjectivePass pass)
        {
            var (latents, context) = (pass.Batch.Labels, pass.Context);
            var noise = randn_like(latents);
            var time = Random.Shared.Next(_targets.Count);
            var noisy = _targets.Noisy(latents, noise, [time]).to(pass.Model.DataType);
            var states = randn([TextLength, textWidth], pass.Model.DataType, latents.device);
            context.Tape?.AddRoot(noisy);
            context.Tape?.AddRoot(states);
            var predicted = ((UNet2DConditionModel)pass.Model).Forward(new UNetInputs(noisy, tensor([(float)time]), new BackboneOutput(states, 1, TextLength)), context);
            return pass.Formula(given => given[0].to(ScalarType.Float32).sub(noise).square().mean(), predicted);
        }
    }
}

/// <summary>How wide a UNet of Stable Diffusion 1.5's shape is.</summary>
/// <param name="Name">In names of jobs.</param>
/// <param name="PeerName">What the peer's script calls it.</param>
/// <param name="Channels">Channels at each size.</param>
/// <param name="TextWidth">Width of the text's states.</param>
/// <param name="Heads">Attention heads, which diffusers' configuration names for their width.</param>
internal sealed record UNetShape(string Name, string PeerName, IReadOnlyList<int> Channels, int TextWidth, int Heads)
{
    /// <summary>A fifth of the channels, in heads of 32 and more: seconds a job.</summary>
    public static UNetShape Small { get; } = new("unet", "small", [64, 128, 256, 256], 256, 2);

    /// <summary>The published model's: 859,520,964 parameters.</summary>
    public static UNetShape StableDiffusion15 { get; } = new("sd15", "sd15", [320, 640, 1280, 1280], 768, 8);
}
