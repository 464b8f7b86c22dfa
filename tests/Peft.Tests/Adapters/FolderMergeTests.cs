using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Merging from folder to folder, a file at a time.</summary>
public sealed class FolderMergeTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    [Theory]
    [InlineData(false, 1L << 30)]
    [InlineData(false, 2000)]
    [InlineData(true, 2000)]
    public void It_writes_what_a_merge_in_memory_writes(bool tied, long shardBytes)
    {
        using var model = TinyLlama.Create(tied, bias: true);
        model.Save(_folder["base"]);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "lm_head"), Bias = BiasTraining.Adapted, ModulesToSave = ["model.norm"] }, "a", 1).Perturb(2);
        model.AddAdapter(new Peft.Adapters.Methods.IA3.IA3Config { TargetModules = ModuleNames.Of("v_proj", "down_proj"), FeedforwardModules = ModuleNames.Of("down_proj") }, "b", 1).Perturb(3);
        model.SaveAdapter("a", _folder["a"], embeddings: false);
        model.SaveAdapter("b", _folder["b"]);
        model.Merge(["a", "b"]);
        using var expected = ModelRun.Logits(model, TinyLlama.Inputs());

        var report = FolderMerge.Run(_folder["base"], [_folder["a"], _folder["b"]], _folder["out"], shardBytes);
        Assert.Equal(shardBytes == 2000, report.Files.Count > 3);
        Assert.True(report.LargestShard <= Math.Max(shardBytes, TinyLlama.Vocabulary * 16 * 4));
        using var merged = PeftModel.Load(_folder["out"]);
        using var found = ModelRun.Logits(merged, TinyLlama.Inputs());
        Assert.True(found.sub(expected).abs().max().item<float>() < 1e-5, $"{found.sub(expected).abs().max().item<float>()}");
        Assert.Equal(ModelBits.Of(model.Base), ModelBits.Of(merged.Base));
    }

    [Fact]
    public void What_fails_on_the_way_writes_nothing()
    {
        using var model = TinyLlama.Create();
        model.Save(_folder["base"]);
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj") }, "a", 1);
        adapter.Adapter.Layers[1].Adapter.LowRank(1)!.B.Data.fill_(float.NaN);
        model.SaveAdapter("a", _folder["a"]);
        Assert.Equal("MergeNotFinite", Assert.Throws<PeftException>(() => FolderMerge.Run(_folder["base"], [_folder["a"]], _folder["out"], 2000, new MergeOptions { Safe = true })).ErrorId);
        Assert.Empty(Directory.EnumerateFiles(_folder["out"]));
        Assert.Equal("OutputExists", Assert.Throws<PeftException>(() => FolderMerge.Run(_folder["base"], [_folder["a"]], _folder["base"])).ErrorId);
    }

    public void Dispose() => _folder.Dispose();
}
