using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Conversion;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>LoRA made of other adapters and of models, where the peer's cases don't reach.</summary>
public class AdapterConversionTests
{
    [Theory]
    [InlineData("""{"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}""")]
    [InlineData("""{"peft_type": "LORA", "r": 3, "target_modules": ["q_proj", "lm_head"], "bias": "all", "modules_to_save": ["norm"]}""")]
    [InlineData("""{"peft_type": "LORA", "r": 3, "target_modules": ["embed_tokens"], "use_dora": true}""")]
    [InlineData("""{"peft_type": "LORA", "r": 2, "target_modules": ["v_proj"], "init_lora_weights": "pissa", "rank_pattern": {"layers.1.self_attn.v_proj": 3}}""")]
    [InlineData("""{"peft_type": "LORA", "r": 2, "target_modules": ["v_proj"], "kasa_config": {}}""")]
    [InlineData("""{"peft_type": "BOFT", "target_modules": ["q_proj"], "boft_block_size": 4}""")]
    public void What_keeps_all_energy_computes_the_same(string config)
    {
        using var model = TinyLlama.Create(bias: true);
        var inputs = TinyLlama.Inputs();
        using var before = ModelRun.Logits(model, inputs);
        model.AddAdapter(AdapterConfig.FromJson(Read(config)), "a", seed: 1).Perturb(2);
        using var adapted = ModelRun.Logits(model, inputs);
        var converted = AdapterConversion.ToLora(model, "a", "lora", new ConversionOptions { Energy = 1 });
        Assert.True(converted.Conversion!.Error < 1e-5);
        Assert.True(adapted.sub(before).abs().max().item<float>() > 1e-2);

        // What a start took out of the base comes back with the adapter that took it.
        model.RemoveAdapter("a");
        model.SetActive("lora");
        using var same = ModelRun.Logits(model, inputs);
        Assert.True(same.sub(adapted).abs().max().item<float>() < 1e-4, $"{same.sub(adapted).abs().max().item<float>()}");
    }

    [Fact]
    public void A_lower_rank_says_what_it_loses()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 6, TargetModules = ModuleNames.Of("q_proj", "v_proj") }, "a", seed: 1).Perturb(2);
        var errors = new[] { 1, 3, 6 }.Select(rank => AdapterConversion.ToLora(model, "a", $"r{rank}", new ConversionOptions { Rank = rank }).Conversion!.Error).ToArray();
        Assert.True(errors[0] > errors[1] && errors[1] > 0.05 && errors[2] < 1e-4);
        Assert.Equal("ConversionInvalid", Assert.Throws<PeftException>(() => AdapterConversion.ToLora(model, "a", "b", new ConversionOptions { Rank = 2, Energy = 0.5 })).ErrorId);
    }

    [Fact]
    public void Two_models_differ_by_an_adapter()
    {
        using var model = TinyLlama.Create(bias: true);
        using var tuned = TinyLlama.Create(bias: true);
        var config = AdapterConfig.FromJson(Read("""{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "down_proj", "embed_tokens"], "bias": "lora_only", "modules_to_save": ["norm"]}"""));
        tuned.AddAdapter(config, "a", seed: 1).Perturb(2);
        tuned.Merge();
        var learnt = AdapterConversion.Extract(model, tuned.Base, "learnt", new ConversionOptions { Rank = 2 });
        Assert.True(learnt.Conversion!.Error < 1e-3);
        Assert.Contains("model.norm", learnt.Config.ModulesToSave!);
        using var own = ModelRun.Logits(model, TinyLlama.Inputs());
        using var theirs = ModelRun.Logits(tuned, TinyLlama.Inputs());
        Assert.True(own.sub(theirs).abs().max().item<float>() < 1e-3, $"{own.sub(theirs).abs().max().item<float>()}");
    }

    [Fact]
    public void Models_of_other_shapes_or_without_a_difference_are_refused()
    {
        using var model = TinyLlama.Create();
        using var other = TinyLlama.Create(bias: true);
        Assert.Equal("ModelsDiffer", Assert.Throws<PeftException>(() => AdapterConversion.Extract(other, model.Base, "a")).ErrorId);
        using var same = TinyLlama.Create();
        Assert.Equal("AdapterConversionNotPossible", Assert.Throws<PeftException>(() => AdapterConversion.Extract(model, same.Base, "a")).ErrorId);
        Assert.Empty(model.Adapters);
    }

    [Fact]
    public void A_strong_direction_that_the_base_has_not_is_an_intruder()
    {
        using var model = TinyLlama.Create();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 1, Alpha = 500, TargetModules = ModuleNames.Of("up_proj") }, "a", seed: 1);
        Assert.All(IntruderDimensions.Find(model, "a"), static report => Assert.Equal((0, 10), (report.Count, report.Likeness.Count)));
        adapter.Perturb(2);
        Assert.All(IntruderDimensions.Find(model, "a", leading: 1, threshold: 0.9), static report => Assert.Equal(1, report.Count));
    }

    private static JsonObject Read(string json) => (JsonObject)JsonNode.Parse(json)!;
}
