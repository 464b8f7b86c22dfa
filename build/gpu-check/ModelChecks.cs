using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion.Pipelines;
using Peft.Files;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Placement;
using Peft.Quantization;
using Peft.Tensors;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Objectives;
using Peft.Training.Optimizers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Build.Gpu;

/// <summary>What there is of families, methods, quantised bases and pipelines, each on the device and on the CPU: the same numbers.</summary>
internal static class ModelChecks
{
    /// <summary>How far the device's sums may be from the CPU's, as a share of the largest value: they run in another order, convolutions in TF32.</summary>
    private const double Tolerance = 5e-3;

    private const int Steps = 3;

    /// <summary>The method whose factors are drawn anew in every step, by another generator on each device.</summary>
    private const string DrawsNoise = "PVERA";

    /// <summary>Hidden states of every recorded family, and for those that write text the losses of a LoRA training.</summary>
    public static void Families(CheckMachine machine)
    {
        var (folders, misses) = (Directory.GetDirectories(machine.At("golden", "families")).Where(static folder => File.Exists(Path.Combine(folder, "model.safetensors"))).Order(StringComparer.Ordinal).ToList(), new Misses());
        foreach (var folder in folders)
        {
            misses.Try(Path.GetFileName(folder), () => Family(machine, folder));
        }

        Console.WriteLine($"  {folders.Count - misses.Refused} families and heads");
        CheckFailedException.Unless(folders.Count - misses.Refused > 80, "there are few families");
        misses.Report();
    }

    private static void Family(CheckMachine machine, string folder)
    {
        using var scope = NewDisposeScope();
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "io.safetensors"));
        var batch = recorded.Names.Contains("padded.input_ids") ? "padded" : "plain";
        Tensor? Read(string name) => recorded.Names.Contains($"{batch}.{name}") ? recorded.Read($"{batch}.{name}") : null;
        Tensor Hidden(Device device)
        {
            using var noGradients = no_grad();
            using var model = ModelLoader.Load(folder, new LoadOptions { Device = device, DataType = ScalarType.Float32 });
            var inputs = new ModelInputs { Ids = Read("input_ids")!.to(device), TokenTypes = Read("token_type_ids")?.to(device) };
            inputs = model is SequenceToSequenceModel sequences && Read("labels") is { } labels ? sequences.WithDecoderIds(inputs, labels.to(device)) : inputs;
            var mask = Read("attention_mask")?.to(device);
            var hidden = model.Forward(inputs, new ForwardContext { AttentionMask = mask }).Hidden;
            hidden = mask is null || inputs.DecoderIds is not null ? hidden : hidden.view(mask.size(0), mask.size(1), -1).mul(mask.unsqueeze(-1));
            return hidden.to(CPU);
        }

        var expected = Hidden(CPU);
        Checks.Near(expected, Hidden(machine.Device), Tolerance * expected.abs().max().ToDouble(), "hidden states");
        using var probe = ModelLoader.Load(folder, new LoadOptions { StructureOnly = true });
        if (probe is CausalModel or SequenceToSequenceModel)
        {
            using var still = WithoutDropout(folder);
            PeftModel Open(Device device)
            {
                var model = PeftModel.Load(still.Path, new LoadOptions { Device = device, DataType = ScalarType.Float32 });
                model.AddAdapter(new LoraConfig { Rank = 4, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = probe is CausalModel ? "CAUSAL_LM" : "SEQ_2_SEQ_LM" }, seed: 1);
                return model;
            }

            SameLosses(machine, Open, recorded.Read($"{batch}.input_ids"));
        }
    }

    /// <summary>Losses of a few steps of every recorded method of a model that writes text, from its recorded adapter on.</summary>
    public static void Methods(CheckMachine machine)
    {
        var (methods, misses) = (new SortedSet<string>(StringComparer.Ordinal), new Misses());
        foreach (var folder in Directory.EnumerateDirectories(machine.At("golden", "adapters", "cases")).Order(StringComparer.Ordinal))
        {
            var adapter = Path.Combine(folder, "adapter");
            var config = Path.Combine(adapter, "adapter_config.json");
            var baseFolder = machine.At("golden", "adapters", JsonFile.ReadObject(Path.Combine(folder, "case.json")).GetProperty("base").GetString()!);
            if (!File.Exists(Path.Combine(baseFolder, "config.json")) || !File.Exists(config)
                || JsonFile.ReadObject(config).GetProperty("peft_type").GetString() is not { } method || method == DrawsNoise || !methods.Add(method))
            {
                continue;
            }

            misses.Try(Path.GetFileName(folder), () =>
            {
                using var recorded = SafetensorsFile.Open(Path.Combine(folder, "io.safetensors"));
                using var still = WithoutDropout(baseFolder);
                PeftModel Open(Device device)
                {
                    var model = PeftModel.Load(still.Path, new LoadOptions { Device = device, DataType = ScalarType.Float32 });
                    model.LoadAdapter(adapter);
                    return model;
                }

                SameLosses(machine, Open, recorded.Read("input_ids"));
            });
        }

        Console.WriteLine($"  {methods.Count - misses.Refused} methods");
        CheckFailedException.Unless(methods.Count - misses.Refused > 30, "there are few methods");
        misses.Report();
    }

    /// <summary>NF4, FP4 and int8 bases: logits, a few steps of LoRA, and greedy text as on the CPU.</summary>
    public static void Quantised(CheckMachine machine)
    {
        var misses = new Misses();
        var ids = randint(5, 512, [2, 24], ScalarType.Int64, CPU);
        foreach (var (name, config) in (ReadOnlySpan<(string, QuantizationConfig)>)
        [
            ("nf4", new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = true }),
            ("fp4", new QuantizationConfig { LoadIn4Bit = true }),
            ("int8", new QuantizationConfig { LoadIn8Bit = true }),
        ])
        {
            misses.Try(name, () =>
            {
                PeftModel Open(Device device)
                {
                    var model = PeftModel.Load(machine.At("assets", "pocket-llama"), new LoadOptions { DataType = ScalarType.Float32, Device = device, Packing = new ModelQuantizer(config) });
                    model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, seed: 1);
                    return model;
                }

                string Text(Device device)
                {
                    using var model = Open(device);
                    return new TextGenerator(model).Generate(["Question: What is the capital of Texas?\nAnswer:"], new GenerationOptions { MaxNewTokens = 8 })[0].Text;
                }

                SameLosses(machine, Open, ids);
                var (expected, actual) = (Text(CPU), Text(machine.Device));
                CheckFailedException.Unless(expected == actual, $"'{actual}' is not the CPU's '{expected}'");
            });
        }

        misses.Report();
    }

    /// <summary>A model whose blocks lie on the device, in the processor's memory and on the disk: the losses of one that lies on the CPU.</summary>
    public static void Placement(CheckMachine machine)
    {
        var home = machine.IsGpu ? "0" : DeviceMapRequest.Cpu;
        var folder = Directory.CreateTempSubdirectory("peft-offload-").FullName;
        try
        {
            PeftModel Open(Device device)
            {
                var map = new DeviceMapRequest
                {
                    Table = [("model.layers.1", DeviceMapRequest.Cpu), ("model.layers.2", DeviceMapRequest.Disk), ("", home)],
                    OffloadFolder = folder,
                };
                var model = PeftModel.Load(machine.At("assets", "pocket-llama"), new LoadOptions { DataType = ScalarType.Float32, Device = device, DeviceMap = device.type == DeviceType.CPU ? null : map });
                model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, seed: 1);
                return model;
            }

            SameLosses(machine, Open, randint(5, 512, [2, 24], ScalarType.Int64, CPU));
            using var spread = Open(machine.Device);
            Console.WriteLine($"  {string.Join(", ", spread.DeviceMap.Select(static row => $"{(row.Module.Length == 0 ? "all else" : row.Module)}: {row.Device}"))}");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Every optimiser: the losses of a few steps as on the CPU.</summary>
    public static void Optimisers(CheckMachine machine)
    {
        var misses = new Misses();
        var ids = randint(5, 512, [2, 24], ScalarType.Int64, CPU);
        foreach (var name in OptimizerRegistry.Names)
        {
            misses.Try(name, () => SameLosses(machine, device =>
            {
                var model = PeftModel.Load(machine.At("assets", "pocket-llama"), new LoadOptions { DataType = ScalarType.Float32, Device = device });
                model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, seed: 1);
                return model;
            }, ids, name));
        }

        Console.WriteLine($"  {OptimizerRegistry.Names.Count} optimisers");
        misses.Report();
    }

    /// <summary>The recorded pipelines' small models: the same picture from the same seed.</summary>
    public static void Diffusion(CheckMachine machine)
    {
        var misses = new Misses();
        foreach (var folder in Directory.EnumerateDirectories(machine.At("golden", "diffusion", "models")).Where(static folder => File.Exists(Path.Combine(folder, "model_index.json"))).Order(StringComparer.Ordinal))
        {
            misses.Try(Path.GetFileName(folder), () =>
            {
                Tensor Picture(Device device)
                {
                    using var model = Peft.Diffusion.DiffusionModelFiles.Load(folder, new LoadOptions { Device = device, DataType = ScalarType.Float32 });
                    return new ImageGenerator(model).Generate("a red fish", new ImageOptions { Steps = 3, Seed = 4 }).Image.ToTensor();
                }

                using var scope = NewDisposeScope();
                var gap = Picture(CPU).sub(Picture(machine.Device)).abs().mean().ToDouble();
                CheckFailedException.Unless(gap < 0.02, $"the picture is another one, by {gap:F3} on average");
            });
        }

        misses.Report();
    }

    /// <summary>A folder with the same weights whose configuration drops nothing: each device draws numbers of its own.</summary>
    private static StillFolder WithoutDropout(string folder)
    {
        var still = new StillFolder(Directory.CreateTempSubdirectory("peft-still-").FullName);
        foreach (var file in Directory.EnumerateFiles(folder).Where(static file => Path.GetFileName(file) != "config.json"))
        {
            File.CreateSymbolicLink(Path.Combine(still.Path, Path.GetFileName(file)), file);
        }

        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject();
        foreach (var part in new[] { config, config["text_config"] as JsonObject }.OfType<JsonObject>())
        {
            foreach (var name in part.Where(static entry => entry.Key.Contains("drop", StringComparison.Ordinal) && entry.Value?.GetValueKind() == JsonValueKind.Number).Select(static entry => entry.Key).ToList())
            {
                part[name] = 0.0;
            }
        }

        File.WriteAllText(Path.Combine(still.Path, "config.json"), config.ToJsonString());
        return still;
    }

    private sealed record StillFolder(string Path) : IDisposable
    {
        public void Dispose() => Directory.Delete(Path, recursive: true);
    }

    private static void SameLosses(CheckMachine machine, Func<Device, PeftModel> open, Tensor ids, string? optimizer = null)
    {
        double[] Losses(Device device)
        {
            using var model = open(device);
            return [.. new Trainer(new TrainingRequest
            {
                Model = model,
                AdapterName = "default",
                Data = new SameRow(ids),
                Options = new TrainingOptions { Objective = ObjectiveRegistry.DefaultFor(model.Base), LearningRate = 1e-3, BatchSize = (int)ids.size(0), MaxSteps = Steps, Optimizer = optimizer ?? new TrainingOptions().Optimizer },
            }).Train().Losses];
        }

        var (expected, actual) = (Losses(CPU), Losses(machine.Device));
        for (var step = 0; step < Steps; step++)
        {
            CheckFailedException.Unless(
                Math.Abs(expected[step] - actual[step]) <= Tolerance * Math.Max(1, Math.Abs(expected[step])),
                FormattableString.Invariant($"loss of step {step + 1}: {actual[step]:G6}, on the CPU {expected[step]:G6}"));
        }
    }

    /// <summary>One batch of given tokens, step after step.</summary>
    private sealed class SameRow(Tensor ids) : ITrainingData
    {
        public int Count => (int)ids.size(0) * Steps;

        public string Fingerprint => "same";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) =>
            new(ids.to(device), ids.to(device).clone()) { TokenCount = ids.numel(), TargetCount = (int)(ids.size(0) * (ids.size(1) - 1)) };
    }

    /// <summary>What didn't hold, so that one run shows all of it.</summary>
    private sealed class Misses
    {
        private readonly List<string> _names = [];

        public int Refused { get; private set; }

        public void Try(string name, Action check)
        {
            try
            {
                check();
            }
            catch (PeftException error)
            {
                // Asked for what it can't do alone: a task's number, another adapter, a prompt's encoder.
                Console.WriteLine($"  {name}: left out ({error.ErrorId})");
                Refused++;
            }
            catch (Exception error) when (error is CheckFailedException or System.Runtime.InteropServices.ExternalException or InvalidOperationException or ArgumentException)
            {
                Console.WriteLine($"  {name}: {error.GetType().Name}: {error.Message.Split('\n')[0]}");
                _names.Add(name);
            }
        }

        public void Report() => CheckFailedException.Unless(_names.Count == 0, $"{_names.Count} don't hold: {string.Join(", ", _names)}");
    }
}
