using System.Text.Json.Nodes;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Adapters in MLX's form.</summary>
public sealed class MlxAdapterTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    [Fact]
    public void Its_layout_is_read()
    {
        using var model = TinyLlama.Create();
        using (var generator = new Generator(1))
        {
            SafetensorsWriter.Write(_folder["adapters.safetensors"],
            [
                ("model.layers.1.self_attn.q_proj.lora_a", empty(16, 2).normal_(0, 1, generator)),
                ("model.layers.1.self_attn.q_proj.lora_b", empty(2, 16).normal_(0, 1, generator)),
            ]);
        }

        File.WriteAllText(_folder["adapter_config.json"], """{"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.1}, "batch_size": 4}""");
        var adapter = model.LoadAdapter(_folder.Path, "a");
        Assert.Equal(["model.layers.1.self_attn.q_proj"], adapter.AdaptedModules);
        var factors = adapter.Adapter.Layers[0].Adapter.LowRank(1)!;
        using var file = SafetensorsFile.Open(_folder["adapters.safetensors"]);
        using var expected = file.Read("model.layers.1.self_attn.q_proj.lora_a").mm(file.Read("model.layers.1.self_attn.q_proj.lora_b")).t().mul(20);
        using var change = factors.B.Data.mm(factors.A.Data).mul(factors.Scale);
        Assert.True(change.sub(expected).abs().max().item<float>() < 1e-4);
        Assert.Equal(0.1, ((LoraConfig)adapter.Config).Dropout);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    public void What_is_written_is_read_and_computes_the_same(bool dora, bool withPattern)
    {
        using var model = TinyLlama.Create();
        var config = new LoraConfig
        {
            Rank = 3,
            Alpha = 5,
            UseDora = dora,
            TargetModules = ModuleNames.Of("q_proj", "down_proj"),
            RankPattern = withPattern ? new Dictionary<string, int> { ["down_proj"] = 2 } : new Dictionary<string, int>(),
        };
        model.AddAdapter(config, "a", 1).Perturb(2);
        using var expected = ModelRun.Logits(model, TinyLlama.Inputs());
        MlxAdapter.Save(model, "a", _folder.Path);
        var written = JsonFile.ReadNode(_folder["adapter_config.json"]);
        Assert.Equal(2, (int)written["num_layers"]!);
        Assert.Equal("""["mlp.down_proj","self_attn.q_proj"]""", written["lora_parameters"]!["keys"]!.ToJsonString());
        using (var file = SafetensorsFile.Open(_folder["adapters.safetensors"]))
        {
            Assert.Equal([16, 3], file.Entry("model.layers.0.self_attn.q_proj.lora_a").Shape);
            Assert.Equal([3, 16], file.Entry("model.layers.0.mlp.down_proj.lora_b").Shape);
        }

        var again = model.LoadAdapter(_folder.Path, "b");
        Assert.Empty(again.Report.Messages);
        model.SetActive("b");
        using var found = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(found.sub(expected).abs().max().item<float>() < 1e-4);
    }

    [Fact]
    public void What_MLX_has_not_is_refused()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new Peft.Adapters.Methods.IA3.IA3Config { TargetModules = ModuleNames.Of("q_proj") }, "a");
        Assert.Equal("AdapterFormatNotSupported", Assert.Throws<NotSupportedByPeftException>(() => MlxAdapter.Save(model, "a", _folder.Path)).ErrorId);
        File.WriteAllText(_folder["adapter_config.json"], new JsonObject { ["fine_tune_type"] = "full" }.ToJsonString());
        SafetensorsWriter.Write(_folder["adapters.safetensors"], [("x", zeros(1))]);
        Assert.Equal("AdapterFormatNotSupported", Assert.Throws<NotSupportedByPeftException>(() => model.LoadAdapter(_folder.Path, "b")).ErrorId);
    }

    public void Dispose() => _folder.Dispose();
}
