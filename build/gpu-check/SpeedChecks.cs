using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Build.Gpu;

/// <summary>LoRA of rank 8 on all linear layers of a published shape in bfloat16, 4 x 512 random tokens a step, beside PEFT with the same job.</summary>
internal static class SpeedChecks
{
    private const int Rows = 4;
    private const int Length = 512;
    private const int WarmUp = 3;

    public static void Run(CheckMachine machine, string shape)
    {
        // A dry run shows that the job is sound, not how fast it is.
        var config = Shape(machine.IsGpu ? shape : "tiny");
        var steps = machine.IsGpu ? 10 : 2;
        var ours = Ours(machine, config, steps);
        Console.WriteLine($"  Peft: {ours}");
        Console.WriteLine($"  PEFT: {Theirs(machine, config, steps)}");
    }

    private static JsonObject Shape(string name)
    {
        var (hidden, inner, layers, heads, keys, vocabulary, tied) = name switch
        {
            "1b" => (2048L, 8192L, 16L, 32L, 8L, 128256L, true),
            "8b" => (4096L, 14336L, 32L, 32L, 8L, 128256L, false),
            _ => (64L, 128L, 2L, 4L, 2L, 512L, true),
        };
        return new JsonObject
        {
            ["architectures"] = new JsonArray("LlamaForCausalLM"),
            ["model_type"] = "llama",
            ["hidden_size"] = hidden,
            ["intermediate_size"] = inner,
            ["num_hidden_layers"] = layers,
            ["num_attention_heads"] = heads,
            ["num_key_value_heads"] = keys,
            ["vocab_size"] = vocabulary,
            ["tie_word_embeddings"] = tied,
            ["max_position_embeddings"] = 8192L,
            ["rope_theta"] = 500000.0,
            ["rms_norm_eps"] = 1e-5,
        };
    }

    private static string Ours(CheckMachine machine, JsonObject config, int steps)
    {
        var before = machine.UsedMemory();
        using var model = new PeftModel(Create(machine, config), "shape");
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = new RandomRows((long)config["vocab_size"]!, Rows * (steps + WarmUp)),
            Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = Rows, MaxSteps = steps + WarmUp },
        }).Train();
        var seconds = record.Steps.Zip(record.Steps.Skip(1), static (one, next) => next.Seconds - one.Seconds).Skip(WarmUp - 1).Order().ToArray();
        return string.Create(CultureInfo.InvariantCulture, $"{Rows * Length / seconds[seconds.Length / 2]:N0} tokens/s, {(machine.UsedMemory() - before) / 1e9:F1} GB");
    }

    private static CausalModel Create(CheckMachine machine, JsonObject config)
    {
        using var noGradients = no_grad();
        var model = (CausalModel)ArchitectureRegistry.Create(new ModelConfig((JsonObject)config.DeepClone()));
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            long[] shape = [.. parameter.Shape];
            parameter.Assign(shape.Length == 1
                ? ones(shape, ScalarType.BFloat16, machine.Device)
                : empty(shape, ScalarType.BFloat16, machine.Device).normal_(0, 0.02));
        }

        model.Prepare();
        return model;
    }

    private static string Theirs(CheckMachine machine, JsonObject config, int steps)
    {
        var python = Environment.GetEnvironmentVariable("PEFT_CHECK_PYTHON") ?? "python3";
        var start = new ProcessStartInfo(
            python, [machine.At("peft_speed.py"), machine.DeviceName, config.ToJsonString(), $"{Rows}", $"{Length}", $"{steps}", $"{WarmUp}"])
        {
            UseShellExecute = false,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        try
        {
            using var process = Process.Start(start)!;
            var errors = process.StandardError.ReadToEndAsync();
            var output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0 ? output.Trim() : $"does not run here: {errors.Result.Trim().Split('\n')[^1]}";
        }
        catch (Win32Exception error)
        {
            return $"does not run here: {error.Message}";
        }
    }

    private sealed class RandomRows(long vocabulary, int count) : ITrainingData
    {
        public int Count => count;

        public string Fingerprint => "random";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
        {
            var ids = randint(5, vocabulary, [rows.Count, Length], ScalarType.Int64, device);
            return new TrainingBatch(ids, ids.clone()) { TokenCount = ids.numel(), TargetCount = rows.Count * (Length - 1) };
        }
    }
}
