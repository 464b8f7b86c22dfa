using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.AdaptionPrompt;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Tensors;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Peer;

/// <summary>Adapters saved here and loaded by PEFT, and the other way round.</summary>
public class AdapterExchangeTests
{
    private static readonly Dictionary<string, LoraConfig> s_configs = new()
    {
        ["plain"] = new() { Rank = 3, Alpha = 5, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["all-linear"] = new() { Rank = 2, Alpha = 4, UseRslora = true, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.AllLinear },
        ["patterns"] = new()
        {
            Rank = 2,
            Alpha = 4,
            TaskType = "CAUSAL_LM",
            TargetModules = ModuleNames.Matching(@".*(q|k|up)_proj"),
            LoraBias = true,
            RankPattern = new Dictionary<string, int> { ["k_proj"] = 4 },
            AlphaPattern = new Dictionary<string, double> { [@"layers\.1.*q_proj"] = 1.5 },
        },
        ["monteclora"] = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj", "down_proj"), MonteClora = new MonteCloraSettings { Samples = 3, BufferSize = 2 } },
        ["velora"] = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj", "down_proj"), Velora = new VeloraSettings { Groups = 4 } },
        ["saved"] = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("v_proj"), ModulesToSave = ["lm_head", "norm"] },
        ["adapted-biases"] = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj", "o_proj"), Bias = BiasTraining.Adapted },
        ["biases"] = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("v_proj"), Bias = BiasTraining.All },
        ["embedding"] = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("embed_tokens", "lm_head") },
    };

    [SkippableFact]
    public void Adapters_compute_the_same_on_either_side()
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create(bias: true);
        var inputs = TinyLlama.Inputs(rows: 3, length: 9);
        Run(peer, Prepare(model, inputs, folder.Path), folder.Path);

        foreach (var name in s_configs.Keys)
        {
            model.SetActive(name);
            HoldToPeer(model, inputs, Path.Combine(folder.Path, "ours", name), name + ", made here");
            var theirs = Path.Combine(folder.Path, "theirs", name);
            var report = model.LoadAdapter(theirs, "theirs").Report;
            Assert.Empty(report.Missing);
            Assert.Empty(report.Unexpected);
            model.SetActive("theirs");
            HoldToPeer(model, inputs, theirs, name + ", made by the peer");
        }
    }

    /// <summary>Every method that there is, saved here: the peer reads the file and computes the same.</summary>
    [SkippableFact]
    public void The_peer_computes_the_same_with_an_adapter_of_any_method()
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create();
        var inputs = TinyLlama.Inputs(rows: 3, length: 9);
        var manifest = SaveBase(model, inputs, folder.Path);
        inputs["task_ids"] = zeros([3], ScalarType.Int64);
        Dictionary<string, (Tensor Logits, string Folder)> ours = [];
        foreach (var (name, document) in AdapterTrainingTests.Configurations().Select(static (row, index) => ($"m{index}_{row[0]}", AdapterTrainingTests.Document((string)row[0], (string)row[1]))))
        {
            // PEFT wants the schedule's length even of a file that is only computed with.
            if ((string?)document["peft_type"] == "ADALORA")
            {
                document["total_step"] = 10;
                document["tinit"] = 1;
                document["tfinal"] = 1;
            }

            // PEFT can't make LoftQ's start without an accelerator, even to read a file; what LyCORIS wrote is no method of its. Of FRoD it reads one half of a basis
            // and computes the other of another one, its own, which fits only where that comes out the same, digit for digit.
            if ((string?)document["init_lora_weights"] == "loftq" || (string?)document["peft_type"] is "LYCORIS" or "FROD")
            {
                continue;
            }

            model.AddAdapter(AdapterConfig.FromJson(document), name, seed: 3).Perturb(4, 0.05);
            model.SetActive(name);
            var saved = Path.Combine(folder.Path, "ours", name);
            model.SaveAdapter(name, saved);
            ours[name] = (ModelRun.Logits(model, inputs), saved);
            model.RemoveAdapter(name);
        }

        manifest["ours"] = new JsonArray([.. ours.Values.Select(static entry => JsonValue.Create(entry.Folder))]);
        Run(peer, manifest, folder.Path);

        // AdaMSS needs scikit-learn there, which not every Python with PEFT has.
        var wrong = ours.Where(static entry => !IsWithoutLibrary(entry.Value.Folder)).Select(static entry => Difference(entry.Value.Folder, entry.Value.Logits) is { } difference ? $"{entry.Key}: {difference}" : null).OfType<string>();
        Assert.True(!wrong.Any(), string.Join('\n', wrong));
    }

    /// <summary>PEFT has gated prompts for GPT-2 as well, by another formula than for Llama.</summary>
    [SkippableFact]
    public void The_peer_computes_the_same_with_gated_prompts_of_GPT2()
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        using var folder = new TemporaryFolder();
        using var model = AdaptionPromptTests.Gpt2();
        var inputs = TinyLlama.Inputs(rows: 3, length: 9);
        var (manifest, saved) = (SaveBase(model, inputs, folder.Path), Path.Combine(folder.Path, "ours"));
        var plain = ModelRun.Logits(model, inputs);
        model.AddAdapter(new AdaptionPromptConfig { Length = 3, LayerCount = 2, TaskType = "CAUSAL_LM" }, "prompt", seed: 3).Perturb(4);
        model.SaveAdapter("prompt", saved);
        var ours = ModelRun.Logits(model, inputs);
        Assert.True(ours.sub(plain).abs().max().item<float>() > 0.01);

        manifest["ours"] = new JsonArray(saved);
        Run(peer, manifest, folder.Path);
        Assert.Null(Difference(saved, ours));
    }

    private static bool IsWithoutLibrary(string folder) =>
        Path.Combine(folder, "error.txt") is var error && File.Exists(error) && File.ReadAllText(error).StartsWith("ImportError: scikit-learn", StringComparison.Ordinal);

    /// <summary>What differs, or null.</summary>
    private static string? Difference(string folder, Tensor found)
    {
        var error = Path.Combine(folder, "error.txt");
        if (File.Exists(error))
        {
            return File.ReadAllText(error);
        }

        using var file = TensorStore.OpenFile(Path.Combine(folder, "logits.safetensors"));
        using var expected = file.Read("logits");
        if (!expected.shape.SequenceEqual(found.shape))
        {
            return $"[{string.Join(", ", expected.shape)}] there, [{string.Join(", ", found.shape)}] here";
        }

        var gap = expected.sub(found).abs().max().item<float>();
        return gap < 2e-5 * (1 + expected.abs().max().item<float>()) ? null : FormattableString.Invariant($"largest difference {gap}");
    }

    /// <summary>Writes what the peer computes with, and begins the manifest that says so.</summary>
    private static JsonObject SaveBase(PeftModel model, Dictionary<string, Tensor> inputs, string folder)
    {
        var (baseFolder, inputFile) = (Path.Combine(folder, "base"), Path.Combine(folder, "inputs.safetensors"));
        model.Save(baseFolder);
        SafetensorsWriter.Write(inputFile, [("input_ids", inputs["input_ids"])]);
        return new() { ["base"] = baseFolder, ["inputs"] = inputFile, ["theirs"] = new JsonArray() };
    }

    private static void Run(PythonPeer peer, JsonObject manifest, string folder)
    {
        var file = Path.Combine(folder, "manifest.json");
        JsonFile.Write(file, manifest);
        peer.Run(Path.Combine(RepositoryRoot.Folder, "tests", "Peer", "adapters.py"), file);
    }

    private static JsonObject Prepare(PeftModel model, Dictionary<string, Tensor> inputs, string folder)
    {
        var manifest = SaveBase(model, inputs, folder);
        var ours = new JsonArray();
        var theirs = new JsonArray();
        foreach (var (name, config) in s_configs)
        {
            model.AddAdapter(config, name, seed: 3).Perturb(4);
            var saved = Path.Combine(folder, "ours", name);
            model.SaveAdapter(name, saved);
            ours.Add(saved);
            theirs.Add(new JsonObject { ["folder"] = Path.Combine(folder, "theirs", name), ["configuration"] = Arguments(config) });
        }

        (manifest["ours"], manifest["theirs"]) = (ours, theirs);
        return manifest;
    }

    /// <summary>The configuration as arguments of the peer's class.</summary>
    private static JsonObject Arguments(LoraConfig config)
    {
        var arguments = config.ToJson();
        foreach (var key in new[] { "peft_type", "peft_version", "inference_mode", "base_model_name_or_path", "auto_mapping", "revision" })
        {
            arguments.Remove(key);
        }

        return arguments;
    }

    private static void HoldToPeer(PeftModel model, Dictionary<string, Tensor> inputs, string folder, string what)
    {
        using var file = TensorStore.OpenFile(Path.Combine(folder, "logits.safetensors"));
        using var expected = file.Read("logits");
        using var found = ModelRun.Logits(model, inputs);
        var gap = expected.sub(found).abs().max().item<float>();
        Assert.True(gap < 1e-5 * (1 + expected.abs().max().item<float>()), $"{what}: largest difference {gap}");
    }
}
