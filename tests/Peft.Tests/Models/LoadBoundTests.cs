using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>A configuration of a few bytes asks for no more memory than the files beside it hold.</summary>
public sealed class LoadBoundTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void MissingWeightsAreNoticedBeforeAHeadIsMade()
    {
        WriteConfig(4_000_000);
        SafetensorsWriter.Write(_folder["model.safetensors"], [("model.norm.weight", ones(1024))]);
        Assert.Equal("WeightsMissing", Assert.Throws<PeftException>(() => ModelLoader.Load(_folder.Path)).ErrorId);
    }

    [Fact]
    public void ANewHeadIsNoLargerThanTheModel()
    {
        WriteConfig(4_000_000);
        using (var model = ModelLoader.Load(_folder.Path, new LoadOptions { StructureOnly = true }))
        {
            SafetensorsWriter.Write(_folder["model.safetensors"], [.. model.NamedParameters().Where(static named => !named.Path.StartsWith("score", StringComparison.Ordinal))
                .Select(static named => (named.Path, zeros([.. named.Parameter.Shape])))]);
        }

        var error = Assert.Throws<PeftException>(() => ModelLoader.Load(_folder.Path));
        Assert.Equal("ModelConfigInvalid", error.ErrorId);
        Assert.Equal("num_labels", error.Target);
        WriteConfig(3);
        ModelLoader.Load(_folder.Path).Dispose();
    }

    [Fact]
    public void AnAdapterOfAHugeRankWithoutTensorsIsRefused()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear }, "a", 1);
        model.SaveAdapter("a", _folder.Path);
        var config = JsonFile.ReadNode(_folder["adapter_config.json"]);
        config["r"] = 20_000_000;
        _folder.Write("adapter_config.json", config.ToJsonString());
        SafetensorsWriter.Write(_folder["adapter_model.safetensors"], [("nothing", zeros(1))]);
        Assert.Equal("AdapterTensorMissing", Assert.Throws<PeftException>(() => model.LoadAdapter(_folder.Path, "b")).ErrorId);
        Assert.Equal(["a"], model.Adapters.Select(static adapter => adapter.Name));
    }

    private void WriteConfig(int labels) => _folder.Write("config.json", new JsonObject
    {
        ["model_type"] = "llama",
        ["architectures"] = new JsonArray("LlamaForSequenceClassification"),
        ["num_labels"] = labels,
        ["vocab_size"] = 40,
        ["hidden_size"] = 1024,
        ["intermediate_size"] = 32,
        ["num_hidden_layers"] = 1,
        ["num_attention_heads"] = 8,
        ["num_key_value_heads"] = 1,
    }.ToJsonString());
}
