using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Psoft;
using Peft.Adapters.Targets;
using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class AdapterFileTests
{
    private static readonly LoraConfig s_config = new() { Rank = 2, Alpha = 4, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj", "v_proj") };

    public static TheoryData<string> Kinds => ["plain", "saved", "biases", "embedding", "all-linear", "pattern"];

    [Theory]
    [MemberData(nameof(Kinds))]
    public void An_adapter_comes_back_from_its_folder_as_it_was(string kind)
    {
        using var model = TinyLlama.Create(bias: true);
        using var folder = new TemporaryFolder();
        var inputs = TinyLlama.Inputs();
        var config = kind switch
        {
            "saved" => s_config with { ModulesToSave = ["lm_head", "norm"] },
            "biases" => s_config with { Bias = BiasTraining.All, LoraBias = true },
            "embedding" => s_config with { TargetModules = ModuleNames.Of("embed_tokens", "lm_head") },
            "all-linear" => s_config with { TargetModules = ModuleNames.AllLinear, RankPattern = new Dictionary<string, int> { ["down_proj"] = 5 } },
            "pattern" => s_config with { TargetModules = ModuleNames.Matching(@".*\.1\..*_proj"), AlphaPattern = new Dictionary<string, double> { ["k_proj"] = 1.5 } },
            _ => s_config,
        };
        model.AddAdapter(config, "made", 1).Perturb(1);
        using var before = ModelRun.Logits(model, inputs);
        model.SaveAdapter("made", folder.Path);

        var report = model.LoadAdapter(folder.Path, "loaded").Report;
        model.SetActive("loaded");
        using var after = ModelRun.Logits(model, inputs);

        Assert.Empty(report.Missing);
        Assert.Empty(report.Unexpected);
        Assert.Equal(0, before.sub(after).abs().max().item<float>());
        Assert.Equal(model["made"].AdaptedModules, model["loaded"].AdaptedModules);
        Assert.Equal(folder.Path, model["made"].Path);
    }

    [SkippableFact]
    public void Numbers_between_singular_vectors_that_another_library_computed_are_refused()
    {
        Skip.If(EngineDescription.MatrixLibrary is null, "What computes singular vectors isn't known here.");
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create();
        model.AddAdapter(new PsoftConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj") }, "a", 1);
        model.SaveAdapter("a", folder.Path);
        model.LoadAdapter(folder.Path, "own");
        var path = folder["adapter_model.safetensors"];
        using (var file = SafetensorsFile.Open(path))
        {
            var metadata = new Dictionary<string, string>(file.Metadata) { ["singular_vectors_by"] = "Another" };
            SafetensorsWriter.Write(path, [.. file.Names.Select(name => (name, file.Read(name)))], metadata);
        }

        Assert.Equal("SingularVectorsNotSupported", Assert.Throws<NotSupportedByPeftException>(() => model.LoadAdapter(folder.Path, "other")).ErrorId);
        Assert.DoesNotContain(model.Adapters, static adapter => adapter.Name == "other");
    }

    [Fact]
    public void Missing_and_unexpected_tensors_are_named()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        model.SaveAdapter("a", folder.Path);
        var gone = "";
        Edit(folder.Path, tensors =>
        {
            gone = tensors.Keys.First(static key => key.Contains("lora_B", StringComparison.Ordinal));
            tensors.Remove(gone);
            tensors["base_model.model.nowhere.lora_A.weight"] = zeros(2, 2);
        });

        var report = model.LoadAdapter(folder.Path, "b").Report;

        Assert.Equal([gone], report.Missing);
        Assert.Equal(["base_model.model.nowhere.lora_A.weight"], report.Unexpected);
        Assert.Contains(report.Messages, message => message.Contains(gone, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("_orig_mod.")]
    [InlineData("module.")]
    public void Keys_are_read_with_the_prefixes_of_what_wraps_models(string wrapper)
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        model.SaveAdapter("a", folder.Path);
        using var expected = ModelRun.Logits(model, TinyLlama.Inputs());
        Edit(folder.Path, tensors =>
        {
            foreach (var key in tensors.Keys.ToArray())
            {
                tensors[wrapper + key.Replace("base_model.model.", "", StringComparison.Ordinal)] = tensors[key];
                tensors.Remove(key);
            }
        });

        var loaded = model.LoadAdapter(folder.Path, "b");

        Assert.Empty(loaded.Report.Messages);
        model.SetActive("b");
        using var found = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(expected.equal(found).all().item<bool>());
    }

    [Fact]
    public void A_file_of_which_nothing_fits_is_an_error_that_names_few_of_its_keys_and_their_number()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1);
        model.SaveAdapter("a", folder.Path);
        Edit(folder.Path, tensors =>
        {
            foreach (var key in tensors.Keys.ToArray())
            {
                tensors[key.Replace("self_attn", "attention", StringComparison.Ordinal)] = tensors[key];
                tensors.Remove(key);
            }
        });

        var error = Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b"));

        Assert.Equal("AdapterTensorMissing", error.ErrorId);
        Assert.Contains("and 5 more", error.Message, StringComparison.Ordinal);
        Assert.Equal(["a"], model.Adapters.Select(static adapter => adapter.Name));
    }

    [Fact]
    public void A_wrong_shape_is_an_error_that_names_the_key_and_leaves_the_model_as_it_was()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1);
        model.SaveAdapter("a", folder.Path);
        var wrong = "";
        Edit(folder.Path, tensors =>
        {
            wrong = tensors.Keys.First();
            tensors[wrong] = zeros(2, 5);
        });
        var version = model.Version;

        var error = Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b"));

        Assert.Equal("AdapterShapeMismatch", error.ErrorId);
        Assert.Contains(wrong, error.Message, StringComparison.Ordinal);
        Assert.Equal(["a"], model.Adapters.Select(static adapter => adapter.Name));
        Assert.Equal(version, model.Version);
    }

    [Fact]
    public void A_saved_module_without_its_tensor_is_an_error_that_names_the_key()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "a", 1);
        model.SaveAdapter("a", folder.Path);
        Edit(folder.Path, static tensors => tensors.Remove("base_model.model.lm_head.weight"));

        var error = Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b"));

        Assert.Equal("AdapterTensorMissing", error.ErrorId);
        Assert.Contains("base_model.model.lm_head.weight", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_of_another_model_does_not_fit()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1);
        model.SaveAdapter("a", folder.Path);
        EditConfig(folder.Path, static config => config["target_modules"] = new JsonArray("c_attn"));
        Assert.Equal("NoModuleMatched", Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b")).ErrorId);
    }

    [Fact]
    public void A_base_weight_in_the_file_that_differs_from_the_models_acts_with_its_adapter_alone()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        var inputs = TinyLlama.Inputs();
        model.AddAdapter(s_config with { TargetModules = ModuleNames.Of("lm_head") }, "a", 1);
        using var before = ModelRun.Logits(model, inputs);
        model.SaveAdapter("a", folder.Path);
        Edit(folder.Path, static tensors =>
        {
            const string Key = "base_model.model.lm_head.base_layer.weight";
            tensors[Key] = tensors[Key].mul(2);
        });

        model.LoadAdapter(folder.Path, "b");
        using var others = ModelRun.Logits(model, inputs);
        model.SetActive("b");
        using var doubled = ModelRun.Logits(model, inputs);

        Assert.Equal(0, before.sub(others).abs().max().item<float>());
        Assert.True(before.mul(2).sub(doubled).abs().max().item<float>() < 1e-4);
        using var again = new TemporaryFolder();
        model.SaveAdapter("b", again.Path);
        model.LoadAdapter(again.Path, "c");
        model.SetActive("c");
        using var reloaded = ModelRun.Logits(model, inputs);
        Assert.Equal(0, doubled.sub(reloaded).abs().max().item<float>());
    }

    [Fact]
    public void Loading_over_a_name_replaces_the_adapter_in_its_place()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        model.AddAdapter(s_config, "b", 1).Perturb(2);
        model.SetActive("b");
        using var expected = ModelRun.Logits(model, TinyLlama.Inputs());
        model.SaveAdapter("b", folder.Path);
        model.SetActive("a");
        model.LoadAdapter(folder.Path, "a");
        using var found = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.Equal(["a", "b"], model.Adapters.Select(static adapter => adapter.Name));
        Assert.Equal(["a"], model.ActiveAdapters);
        Assert.Equal(0, expected.sub(found).abs().max().item<float>());
    }

    [Fact]
    public void Folders_that_are_none_are_errors_with_a_reason()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a");
        var file = Path.Combine(folder.Path, "file");
        File.WriteAllText(file, "");
        Assert.Equal("NotAFolder", Assert.Throws<PeftException>(() => model.SaveAdapter("a", file)).ErrorId);
        Assert.Equal("AdapterNotFound", Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b")).ErrorId);
        Assert.Equal("AdapterNotFound", Assert.Throws<PeftException>(() => model.LoadAdapter(Path.Combine(folder.Path, "none"), "b")).ErrorId);
        model.SaveAdapter("a", folder.Path);
        File.Delete(Path.Combine(folder.Path, "adapter_model.safetensors"));
        Assert.Equal("WeightsNotFound", Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b")).ErrorId);
    }

    [Fact]
    public void Random_damage_to_a_configuration_never_ends_in_a_foreign_exception()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config, "a", 1);
        model.SaveAdapter("a", folder.Path);
        var path = Path.Combine(folder.Path, AdapterConfig.FileName);
        var bytes = File.ReadAllBytes(path);
        var random = new System.Random(1);
        for (var i = 0; i < 200; i++)
        {
            var damaged = (byte[])bytes.Clone();
            damaged[random.Next(damaged.Length)] = (byte)random.Next(256);
            File.WriteAllBytes(path, random.Next(4) == 0 ? damaged[..random.Next(damaged.Length)] : damaged);
            var error = Record.Exception(() => model.LoadAdapter(folder.Path, "b"));
            Assert.True(error is null or PeftException, error?.ToString());
        }
    }

    private static void Edit(string folder, Action<Dictionary<string, Tensor>> edit)
    {
        var path = Path.Combine(folder, "adapter_model.safetensors");
        Dictionary<string, Tensor> tensors;
        using (var file = SafetensorsFile.Open(path))
        {
            tensors = file.Names.ToDictionary(static name => name, name => file.Read(name));
        }

        edit(tensors);
        SafetensorsWriter.Write(path, tensors.Select(static entry => (entry.Key, entry.Value)));
    }

    private static void EditConfig(string folder, Action<JsonObject> edit)
    {
        var path = Path.Combine(folder, AdapterConfig.FileName);
        var config = (JsonObject)JsonNode.Parse(File.ReadAllText(path))!;
        edit(config);
        File.WriteAllText(path, config.ToJsonString());
    }
}
