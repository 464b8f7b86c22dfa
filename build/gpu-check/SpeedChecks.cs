using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Quantization;
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
    private const int NewTokens = 128;

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
        var record = Train(model, config, steps);
        var memory = machine.UsedMemory() - before;
        return string.Create(CultureInfo.InvariantCulture, $"{Rows * Length / MedianStep(record):N0} tokens/s, {memory / 1e9:F1} GB; generation {Generation(model):F1} tokens/s");
    }

    private static double MedianStep(TrainingRecord record)
    {
        var seconds = record.Steps.Zip(record.Steps.Skip(1), static (one, next) => next.Seconds - one.Seconds).Skip(WarmUp - 1).Order().ToArray();
        return seconds[seconds.Length / 2];
    }

    /// <summary>Tokens a second of one greedy text with the adapter active, the better of two.</summary>
    private static double Generation(PeftModel model)
    {
        var options = new GenerationOptions { MaxNewTokens = NewTokens, MinNewTokens = NewTokens };
        int[][] prompts = [[.. Enumerable.Range(5, 32)]];
        var best = double.MaxValue;
        for (var run = 0; run < 2; run++)
        {
            var clock = Stopwatch.StartNew();
            new TextGenerator(model).Generate(prompts, options);
            best = Math.Min(best, clock.Elapsed.TotalSeconds);
        }

        return NewTokens / best;
    }

    /// <summary>QLoRA: the same training of the 8B shape over NF4 in double quantisation, which nothing there can be compared with.</summary>
    public static void Quantised(CheckMachine machine)
    {
        var config = Shape(machine.IsGpu ? "8b" : "tiny");
        var before = machine.UsedMemory();
        var quantizer = new ModelQuantizer(new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = true, ComputeType = ScalarType.BFloat16 });
        using var model = new PeftModel(Create(machine, config, quantizer), "shape");
        var loaded = machine.UsedMemory() - before;
        var record = Train(model, config, machine.IsGpu ? 5 : 2);
        var memory = machine.UsedMemory() - before;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  Peft, NF4: {loaded / 1e9:F1} GB loaded; {Rows * Length / MedianStep(record):N0} tokens/s, {memory / 1e9:F1} GB; generation {Generation(model):F1} tokens/s"));
    }

    private static TrainingRecord Train(PeftModel model, JsonObject config, int steps)
    {
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
        return new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = new RandomRows((long)config["vocab_size"]!, Rows * (steps + WarmUp)),
            Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = Rows, MaxSteps = steps + WarmUp },
        }).Train();
    }

    private static CausalModel Create(CheckMachine machine, JsonObject config, ModelQuantizer? quantizer = null)
    {
        using var noGradients = no_grad();
        var model = (CausalModel)ArchitectureRegistry.Create(new ModelConfig((JsonObject)config.DeepClone()));
        var packed = (quantizer?.Targets(model) ?? new HashSet<Linear>()).ToDictionary(static layer => layer.Weight);
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            using var scope = NewDisposeScope();
            long[] shape = [.. parameter.Shape];
            var values = shape.Length == 1
                ? ones(shape, ScalarType.BFloat16, machine.Device)
                : empty(shape, ScalarType.BFloat16, machine.Device).normal_(0, 0.02);
            if (packed.TryGetValue(parameter, out var layer))
            {
                parameter.Pack(quantizer!.Pack(layer, values));
            }
            else
            {
                parameter.Assign(values);
            }
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
