using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Methods.XLora;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>X-LoRA, which is made of adapters that were saved before.</summary>
public sealed class XLoraTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    [Theory]
    [InlineData("""{"layerwise_scalings": true}""")]
    [InlineData("""{"xlora_depth": 3, "xlora_size": 8, "xlora_dropout_p": 0.1, "use_trainable_adapters": true}""")]
    [InlineData("""{"top_k_lora": 1, "enable_softmax": false, "enable_softmax_topk": true, "global_scaling_weight": 2}""")]
    public void It_learns_and_comes_back_with_its_experts(string fields)
    {
        using var model = Model(fields, out var adapter);
        var inputs = TinyLlama.Inputs();
        var first = ModelRun.Backward(model, adapter, inputs).Loss;
        for (var step = 0; step < 6; step++)
        {
            var gradients = ModelRun.Backward(model, adapter, inputs).Gradients;
            using var noGradients = no_grad();
            foreach (var parameter in adapter.TrainableParameters)
            {
                parameter.Parameter.Data.add_(gradients[parameter.FullKey].sign(), alpha: -0.02);
                parameter.Parameter.MarkChanged();
            }
        }

        var last = ModelRun.Backward(model, adapter, inputs).Loss;

        // One expert alone with a share of one has nothing to learn.
        Assert.True(fields.Contains("top_k", StringComparison.Ordinal) || last < first, $"{first} to {last}");
        using var expected = ModelRun.Logits(model, inputs);
        model.SaveAdapter("mixture", _folder["mixture"]);
        Directory.Delete(_folder["a"], recursive: true);
        Directory.Delete(_folder["b"], recursive: true);
        model.RemoveAdapter("mixture");
        model.LoadAdapter(_folder["mixture"], "again");
        using var found = ModelRun.Logits(model, inputs);
        Assert.True(found.sub(expected).abs().max().item<float>() < 1e-5);
    }

    [Fact]
    public void A_token_at_a_time_it_mixes_as_it_does_over_the_whole_row()
    {
        using var model = Model("""{"layerwise_scalings": true}""", out _);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var causal = (CausalModel)model.Base;
        var ids = TinyLlama.Inputs(rows: 1)["input_ids"];
        using var whole = ModelRun.Logits(model, new Dictionary<string, Tensor> { ["input_ids"] = ids });
        using var cache = new ModelCache();
        for (var i = 0; i < ids.size(1); i++)
        {
            var context = model.NewPass(new ForwardContext { Cache = cache });
            var logits = causal.Logits(causal.Forward(ids.narrow(1, i, 1), context), context).flatten();
            Assert.True(logits.sub(whole[0, i]).abs().max().item<float>() < 1e-4);
        }
    }

    [Fact]
    public void What_is_no_plain_LoRA_is_no_expert_and_without_experts_it_is_refused()
    {
        using var model = TinyLlama.Create();
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => model.AddAdapter(Read("{}"))).ErrorId);
        model.AddAdapter(new LoraConfig { Rank = 2, UseDora = true, TargetModules = ModuleNames.Of("q_proj") }, "d", 1);
        model.SaveAdapter("d", _folder["d"]);
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => model.AddAdapter(Read("{}") with { Experts = new JsonObject { ["d"] = _folder["d"] } })).ErrorId);
    }

    private PeftModel Model(string fields, out PeftAdapter adapter)
    {
        var model = TinyLlama.Create();
        foreach (var (name, target) in new[] { ("a", "q_proj"), ("b", "v_proj") })
        {
            model.AddAdapter(new LoraConfig { Rank = 2, Alpha = 8, TargetModules = ModuleNames.Of(target, "down_proj") }, name, 1).Perturb(name[0]);
            model.SaveAdapter(name, _folder[name]);
            model.RemoveAdapter(name);
        }

        adapter = model.AddAdapter(Read(fields) with { Experts = new JsonObject { ["a"] = _folder["a"], ["b"] = _folder["b"] } }, "mixture", 3);
        model.SetActive("mixture");
        return model;
    }

    private static XLoraConfig Read(string fields)
    {
        var document = (JsonObject)JsonNode.Parse(fields)!;
        document["peft_type"] = "XLORA";
        return (XLoraConfig)AdapterConfig.FromJson(document);
    }

    public void Dispose() => _folder.Dispose();
}
