using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>A whole checkpoint of gpt-oss as it is published, experts in MXFP4, held to what transformers computes of it (<c>gpt_oss_mxfp4.py</c>).</summary>
public sealed class GptOssCheckpointTests : IDisposable
{
    private static readonly string s_folder = Path.Combine(RepositoryRoot.Folder, "tests", "references", "gpt-oss-mxfp4");
    private static readonly JsonObject s_reference = JsonFile.ReadNode(Path.Combine(s_folder, "reference.json"));
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Fact]
    public void Its_logits_and_texts_are_transformers()
    {
        using var model = PeftModel.Load(s_folder, new LoadOptions { DataType = ScalarType.Float32 });
        Check(model);
        using var reference = TensorStore.OpenFile(Path.Combine(s_folder, "reference.safetensors"));
        var rows = reference.Read("ids").data<long>().ToArray().Chunk(11).Select(static row => (IReadOnlyList<int>)[.. row.Select(static id => (int)id)]);
        var results = new TextGenerator(model).Generate([.. rows], new GenerationOptions { MaxNewTokens = 8 });
        Assert.Equal(s_reference["added"]!.AsArray().Select(static row => row!.AsArray().Select(static id => (int)id!)), results.Select(static result => result.TokenIds));
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void Its_experts_stay_packed_where_that_is_asked_for(ScalarType type)
    {
        using var noGrad = no_grad();
        using var plain = PeftModel.Load(s_folder, new LoadOptions { DataType = type });
        using var kept = PeftModel.Load(s_folder, new LoadOptions { DataType = type, KeepsBlocks = true });
        var experts = plain.Base.NamedWeights().Zip(kept.Base.NamedWeights()).Where(static pair => pair.Second.Parameter.Packed is not null).ToArray();
        Assert.Equal("MXFP4", kept.Quantization);
        Assert.All(experts, pair => Assert.True(pair.First.Parameter.Data.eq(pair.Second.Parameter.Unpacked(type)).all().item<bool>(), pair.First.Path));
        Assert.All(experts, static pair => Assert.Equal(pair.Second.Parameter.Count * 17 / 32, pair.Second.Parameter.Bytes));
        Assert.Equal(plain.Base.NamedWeights().Count(static named => named.Path.EndsWith("_proj", StringComparison.Ordinal)), experts.Length);
        if (type == ScalarType.Float32)
        {
            Check(kept);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void It_is_saved_unpacked_and_its_configuration_says_so(bool keepsBlocks)
    {
        using var folder = new TemporaryFolder();
        using (var model = PeftModel.Load(s_folder, new LoadOptions { DataType = ScalarType.Float32, KeepsBlocks = keepsBlocks }))
        {
            model.Save(folder.Path);
        }

        Assert.False(JsonFile.ReadNode(Path.Combine(folder.Path, "config.json")).ContainsKey("quantization_config"));
        using (var file = TensorStore.OpenFile(Path.Combine(folder.Path, "model.safetensors")))
        {
            Assert.Equal([4, 64, 64], file.Entry("model.layers.0.mlp.experts.gate_up_proj").Shape);
            Assert.DoesNotContain(file.Names, static name => name.EndsWith("_blocks", StringComparison.Ordinal));
        }

        using var again = PeftModel.Load(folder.Path);
        Check(again);
    }

    private static void Check(PeftModel model)
    {
        using var noGrad = no_grad();
        using var reference = TensorStore.OpenFile(Path.Combine(s_folder, "reference.safetensors"));
        var ids = reference.Read("ids");
        var context = model.NewPass(new ForwardContext { Rows = ids.size(0), Length = ids.size(1) });
        var causal = (CausalModel)model.Base;
        TensorAssert.Close(reference.Read("logits"), causal.Logits(causal.Forward(ids, context), context).view(2, 11, -1), (double)s_reference["atol"]!, 0, "logits");
    }
}
