using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Weights of the base that PEFT stores in an adapter's file (embeddings of a vocabulary that was trained, first of all).</summary>
public sealed class BaseWeightsInAdapterFileTests : IDisposable
{
    private const string Embedding = "base_model.model.model.embed_tokens.weight";
    private const string Wrapped = "base_model.model.model.embed_tokens.base_layer.weight";

    private readonly TemporaryFolder _folder = new();
    private readonly Dictionary<string, Tensor> _inputs = TinyLlama.Inputs();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(true, "q_proj", Embedding)]
    [InlineData(false, "q_proj", Embedding)]
    [InlineData(true, "embed_tokens", Wrapped)]
    [InlineData(false, "embed_tokens", Wrapped)]
    [InlineData(true, "q_proj", "base_model.model.lm_head.weight")]
    [InlineData(false, "q_proj", "base_model.model.model.norm.weight")]
    [InlineData(false, "q_proj", "base_model.model.model.layers.1.mlp.up_proj.weight")]
    public void They_are_the_bases_while_the_adapter_acts_and_wherever_they_are_shared(bool tied, string target, string key)
    {
        using var model = TinyLlama.Create(tied);
        using var own = ModelRun.Logits(model, _inputs);
        SaveWith(model, target, key, 1.5);
        using var changed = TinyLlama.Create(tied);
        Parameter(changed, key).Data.mul_(1.5);
        changed.LoadAdapter(_folder.Path, "a");
        using var expected = ModelRun.Logits(changed, _inputs);

        var report = model.LoadAdapter(_folder.Path, "loaded").Report;

        Assert.Empty(report.Unexpected);
        model.SetActive("loaded");
        AssertSame(expected, ModelRun.Logits(model, _inputs));
        AssertSame(own, ModelRun.Logits(model, _inputs, AdapterSelection.Base));
        Assert.True(expected.sub(own).abs().max().item<float>() > 1e-3);
    }

    [Fact]
    public void They_go_into_the_file_again()
    {
        using var model = TinyLlama.Create(tied: true);
        SaveWith(model, "q_proj", Embedding, 1.5);
        model.LoadAdapter(_folder.Path, "loaded");
        using var again = new TemporaryFolder();
        model.SaveAdapter("loaded", again.Path);
        using var before = SafetensorsFile.Open(Path.Combine(_folder.Path, "adapter_model.safetensors"));
        using var after = SafetensorsFile.Open(Path.Combine(again.Path, "adapter_model.safetensors"));
        Assert.Equal(before.Names.Order(StringComparer.Ordinal), after.Names.Order(StringComparer.Ordinal));
        AssertSame(before.Read(Embedding), after.Read(Embedding));
    }

    [Fact]
    public void Merged_they_are_the_bases_for_good()
    {
        using var model = TinyLlama.Create(tied: true);
        SaveWith(model, "q_proj", Embedding, 1.5);
        model.LoadAdapter(_folder.Path, "loaded");
        model.SetActive("loaded");
        using var expected = ModelRun.Logits(model, _inputs);
        model.Merge();
        using var merged = ModelRun.Logits(model, _inputs, AdapterSelection.Base);
        Assert.True(expected.sub(merged).abs().max().item<float>() < 1e-4);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Merged_with_a_change_of_the_embedding_they_are_the_heads_for_good_and_the_embeddings_have_the_change(bool unload)
    {
        using var model = TinyLlama.Create(tied: true);
        SaveWith(model, "embed_tokens", Wrapped, 1.5);
        model.LoadAdapter(_folder.Path, "loaded");
        model.SetActive("loaded");
        using var expected = ModelRun.Logits(model, _inputs);
        model.Merge(options: new MergeOptions { Unload = unload });
        using var merged = ModelRun.Logits(model, _inputs, AdapterSelection.Base);
        Assert.True(expected.sub(merged).abs().max().item<float>() < 1e-4);
    }

    [Fact]
    public void What_PEFT_writes_twice_is_no_surprise_unless_it_differs()
    {
        using var model = TinyLlama.Create(tied: true);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj"), ModulesToSave = ["lm_head"], TaskType = "CAUSAL_LM" }, "a", 1).Perturb(1);
        model.SaveAdapter("a", _folder.Path);
        model.RemoveAdapter("a");
        const string Head = "base_model.model.lm_head.";
        Edit(tensors =>
        {
            tensors[$"{Head}modules_to_save.weight"] = tensors[$"{Head}weight"].clone();
            tensors[$"{Head}original_module.weight"] = ones_like(tensors[$"{Head}weight"]);
        });
        Assert.Empty(model.LoadAdapter(_folder.Path, "same").Report.Messages);

        Edit(static tensors => tensors[$"{Head}modules_to_save.weight"] = tensors[$"{Head}weight"].mul(2));
        Assert.Equal([$"{Head}modules_to_save.weight"], model.LoadAdapter(_folder.Path, "other").Report.Unexpected);
    }

    [Theory]
    [InlineData("table")]
    [InlineData("factors")]
    [InlineData("saved")]
    [InlineData("rows")]
    public void Whatever_knows_more_tokens_than_the_model_says_that_tokens_come_first(string kind)
    {
        using var model = TinyLlama.Create(tied: false);
        var config = new LoraConfig
        {
            Rank = 2,
            TargetModules = ModuleNames.Of(kind == "factors" ? "embed_tokens" : "q_proj"),
            ModulesToSave = kind == "saved" ? ["lm_head"] : null,
            TrainableTokens = kind == "rows" ? new([1]) : null,
            TaskType = "CAUSAL_LM",
        };
        model.AddAdapter(config, "a", 1).Perturb(1);
        model.SaveAdapter("a", _folder.Path, embeddings: false);
        model.RemoveAdapter("a");
        switch (kind)
        {
            case "table":
                Edit(static tensors => tensors[Embedding] = ones(TinyLlama.Vocabulary + 3, 16));
                break;
            case "factors":
                Edit(static tensors => tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = ones(2, TinyLlama.Vocabulary + 3));
                break;
            case "saved":
                Edit(static tensors => tensors["base_model.model.lm_head.weight"] = ones(TinyLlama.Vocabulary + 3, 16));
                break;
            default:
                var path = _folder["adapter_config.json"];
                var json = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(path))!;
                json["trainable_token_indices"] = new System.Text.Json.Nodes.JsonArray(TinyLlama.Vocabulary + 1);
                File.WriteAllText(path, json.ToJsonString());
                break;
        }

        var error = Assert.Throws<PeftException>(() => model.LoadAdapter(_folder.Path, "loaded"));

        Assert.Contains("Add-ModelToken", error.RecommendedAction, StringComparison.Ordinal);
        Assert.Empty(model.Adapters);
    }

    [Theory]
    [InlineData(43)]
    [InlineData(39)]
    public void Those_of_another_vocabulary_are_an_error_that_names_both_sizes_and_nothing_is_added(long rows)
    {
        using var model = TinyLlama.Create();
        SaveWith(model, "q_proj", Embedding, 1.5);
        Edit(tensors => tensors[Embedding] = ones(rows, 16));

        var error = Assert.Throws<PeftException>(() => model.LoadAdapter(_folder.Path, "loaded"));

        Assert.Equal("AdapterShapeMismatch", error.ErrorId);
        Assert.Contains(FormattableString.Invariant($"{rows} tokens"), error.Message, StringComparison.Ordinal);
        Assert.Contains(FormattableString.Invariant($"{TinyLlama.Vocabulary}"), error.Message, StringComparison.Ordinal);
        Assert.Contains("vocabulary", error.RecommendedAction, StringComparison.Ordinal);
        Assert.Empty(model.Adapters);
    }

    /// <summary>Saves an adapter whose file also has a weight of the base, multiplied, and leaves the model without adapters.</summary>
    private void SaveWith(PeftModel model, string target, string key, double factor)
    {
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of(target), TaskType = "CAUSAL_LM" }, "a", 1).Perturb(1);
        model.SaveAdapter("a", _folder.Path);
        model.RemoveAdapter("a");
        Edit(tensors => tensors[key] = Parameter(model, key).Data.mul(factor));
    }

    private void Edit(Action<Dictionary<string, Tensor>> edit)
    {
        var path = _folder["adapter_model.safetensors"];
        Dictionary<string, Tensor> tensors;
        using (var file = SafetensorsFile.Open(path))
        {
            tensors = file.Names.ToDictionary(static name => name, name => file.Read(name).clone());
        }

        edit(tensors);
        SafetensorsWriter.Write(path, tensors.Select(static entry => (entry.Key, entry.Value)));
    }

    private static Parameter Parameter(PeftModel model, string key) =>
        model.Base.FindParameter(key.Replace("base_model.model.", "", StringComparison.Ordinal).Replace(".base_layer", "", StringComparison.Ordinal))!;

    private static void AssertSame(Tensor expected, Tensor found) => Assert.Equal(0, expected.sub(found).abs().max().item<float>());
}
