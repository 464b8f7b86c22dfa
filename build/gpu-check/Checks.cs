using System.Runtime.InteropServices;
using System.Text.Json;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Build.Gpu;

/// <summary>The checks by name: the engine, golden LoRA cases, training with dropout, generation; the shell's and speed have files of their own.</summary>
internal static class Checks
{
    private static readonly Dictionary<string, Action<CheckMachine>> s_checks = new(StringComparer.Ordinal)
    {
        ["engine"] = Engine,
        ["kernels"] = KernelChecks.Run,
        ["golden"] = Golden,
        ["training"] = Training,
        ["families"] = ModelChecks.Families,
        ["methods"] = ModelChecks.Methods,
        ["quantised"] = ModelChecks.Quantised,
        ["placement"] = ModelChecks.Placement,
        ["optimisers"] = ModelChecks.Optimisers,
        ["diffusion"] = ModelChecks.Diffusion,
        ["shell"] = ShellChecks.Run,
        ["speed-1b"] = machine => SpeedChecks.Run(machine, "1b"),
        ["speed-8b"] = machine => SpeedChecks.Run(machine, "8b"),
        ["qlora-8b"] = SpeedChecks.Quantised,
    };

    public static IReadOnlyCollection<string> Names => s_checks.Keys;

    /// <summary>Runs one; 0 if it holds, 1 with a line if it doesn't.</summary>
    public static int Run(string name, CheckMachine machine)
    {
        try
        {
            s_checks[name](machine);
            return 0;
        }
        catch (Exception error) when (error is CheckFailedException or PeftException or ExternalException or InvalidOperationException)
        {
            Console.WriteLine($"  {error.GetType().Name}: {error.Message}");
            return 1;
        }
    }

    private static void Engine(CheckMachine machine)
    {
        using var scope = NewDisposeScope();
        Console.WriteLine($"  libtorch {__version__}, {cuda.device_count()} CUDA devices");
        var a = randn([64, 96]);
        var b = randn([96, 32]);
        Near(a.mm(b), a.to(machine.Device).mm(b.to(machine.Device)), 1e-3, "mm");
        foreach (var type in (ScalarType[])(machine.IsGpu ? [ScalarType.BFloat16, ScalarType.Float16] : [ScalarType.BFloat16]))
        {
            Near(a.mm(b), a.to(machine.Device).to(type).mm(b.to(machine.Device).to(type)), 1, $"mm in {type}");
        }

        using var generator = new Generator(7, machine.Device);
        var first = empty([4096], ScalarType.Float32, machine.Device).bernoulli_(0.25, generator);
        generator.manual_seed(7);
        var second = empty([4096], ScalarType.Float32, machine.Device).bernoulli_(0.25, generator);
        Near(first, second, 0, "the same draws from the same seed");
        CheckFailedException.Unless(Math.Abs(first.mean().ToDouble() - 0.25) < 0.05, "a quarter of the draws is one");

        var x = randn([8, 8], device: machine.Device).requires_grad_(true);
        x.mul(x).sum().backward();
        Near(x.detach().mul(2), x.grad!, 1e-5, "the gradient of a square");
        try
        {
            a.to(machine.Device).mm(a.to(machine.Device));
            throw new CheckFailedException("a product of unlike shapes went through");
        }
        catch (ExternalException error)
        {
            CheckFailedException.Unless(error.Message.Contains("shapes cannot be multiplied", StringComparison.Ordinal), error.Message);
        }

        Near(a.mm(b), a.to(machine.Device).mm(b.to(machine.Device)), 1e-3, "mm after an error");
    }

    /// <summary>Logits of every LoRA case on a Llama, at ten times the tolerance of the CPU: sums run in another order.</summary>
    private static void Golden(CheckMachine machine)
    {
        var count = 0;
        foreach (var folder in Directory.EnumerateDirectories(machine.At("golden", "adapters", "cases"), "lora_*").Order(StringComparer.Ordinal))
        {
            using var record = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "case.json")));
            var baseFolder = machine.At("golden", "adapters", record.RootElement.GetProperty("base").GetString()!);
            if (!File.Exists(Path.Combine(baseFolder, "config.json")))
            {
                continue;
            }

            using var scope = NewDisposeScope();
            try
            {
                using var model = new PeftModel(ModelLoader.Load(baseFolder, new LoadOptions { Device = machine.Device }), "base", baseFolder);
                if (model.Base is not CausalModel causal)
                {
                    continue;
                }

                model.LoadAdapter(Path.Combine(folder, "adapter"));
                using var file = SafetensorsFile.Open(Path.Combine(folder, "io.safetensors"));
                var tolerance = record.RootElement.GetProperty("tolerance");
                using var noGradients = no_grad();
                var ids = file.Read("input_ids").to(machine.Device);
                var mask = file.Names.Contains("attention_mask") ? file.Read("attention_mask").to(machine.Device) : null;
                var context = new ForwardContext { Selection = model.CurrentSelection, AttentionMask = mask };
                var output = causal.Forward(ids, context);
                var logits = causal.Logits(output, context).view(output.Rows, output.Length, -1).narrow(1, output.VirtualLength, ids.shape[1]);
                var expected = file.Read("adapter_logits");
                Near(expected, mask is null ? logits : logits.mul(mask.unsqueeze(-1)), 10 * (tolerance.GetProperty("atol").GetDouble() + tolerance.GetProperty("rtol").GetDouble() * expected.abs().max().ToDouble()), Path.GetFileName(folder));
                count++;
            }
            catch (NotSupportedByPeftException)
            {
                // A case of another family or method, which this check isn't about.
            }
        }

        Console.WriteLine($"  {count} LoRA cases");
        CheckFailedException.Unless(count > 20, "there are few LoRA cases");
    }

    private static void Training(CheckMachine machine)
    {
        using var model = PeftModel.Load(machine.At("assets", "pocket-llama"), new LoadOptions { DataType = ScalarType.Float32, Device = machine.Device });
        model.AddAdapter(new LoraConfig { Rank = 16, Alpha = 32, Dropout = 0.1, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, "capitals", seed: 0);
        var rows = TrainingDataset.FromFile(machine.At("assets", "data", "capitals.jsonl"));
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "capitals",
            Data = rows.Tokenize(model.RequiredTokenizer),
            Options = new TrainingOptions { Epochs = machine.IsGpu ? 60 : 4, BatchSize = 10, LearningRate = 6e-3, NeftuneNoiseAlpha = 1 },
        }).Train();
        Console.WriteLine($"  with dropout: {record.StepCount} steps, loss {record.Losses[0]:F2} -> {record.FinalLoss:F4}, {record.TokensPerSecond:N0} tokens/s");
        CheckFailedException.Unless(record.FinalLoss < record.Losses[0] / 2, "nothing was learnt");

        const string Question = "Question: What is the capital of Texas?\nAnswer:";
        var options = new GenerationOptions { MaxNewTokens = 24, StopStrings = ["\n"] };
        var greedy = new TextGenerator(model).Generate([Question], options)[0].Text;
        var sampled = new TextGenerator(model).Generate([Question], options with { Sample = true, Seed = 3 })[0].Text;
        Console.WriteLine($"  greedy{greedy}, sampled{sampled}");
        CheckFailedException.Unless(!machine.IsGpu || greedy.Contains("Austin", StringComparison.Ordinal), "the capital of Texas was learnt by heart");
    }

    internal static void Near(Tensor expected, Tensor actual, double tolerance, string what)
    {
        using var scope = NewDisposeScope();
        var gap = expected.to(CPU).to(ScalarType.Float64).sub(actual.to(CPU).to(ScalarType.Float64)).abs().max().ToDouble();
        CheckFailedException.Unless(gap <= tolerance, FormattableString.Invariant($"{what}: largest difference {gap:G3}, allowed {tolerance:G3}"));
    }
}
