using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Quantization;
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

    [Theory]
    [InlineData("nf4", MergeGround.Quantized, true)]
    [InlineData("nf4", MergeGround.Unpacked, false)]
    [InlineData("nf4", MergeGround.Original, false)]
    [InlineData("int8", MergeGround.Quantized, true)]
    [InlineData("int8", MergeGround.Unpacked, false)]
    public void A_quantised_base_is_merged_into_as_in_memory(string kind, MergeGround ground, bool staysQuantised)
    {
        using (var plain = TinyLlama.Create())
        {
            plain.Save(_folder["original"]);
            ModelQuantizer.Quantize(plain.Base, kind == "nf4" ? new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = true } : new QuantizationConfig { LoadIn8Bit = true });
            plain.Save(_folder["base"]);
        }

        using var model = PeftModel.Load(_folder["base"]);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear, ModulesToSave = ["lm_head"] }, "a", 1).Perturb(2);
        model.SaveAdapter("a", _folder["a"], embeddings: false);
        var options = new MergeOptions { Ground = ground, OriginalPath = _folder["original"] };
        model.Merge(["a"], options);
        using var expected = ModelRun.Logits(model, TinyLlama.Inputs());

        var report = FolderMerge.Run(_folder["base"], [_folder["a"]], _folder["out"], 2000, options);
        Assert.True(report.Files.Count > 3);
        Assert.Equal(staysQuantised, report.Messages.Any(static message => message.Contains("quantised again", StringComparison.Ordinal)));
        using var merged = PeftModel.Load(_folder["out"]);
        Assert.Equal(staysQuantised ? kind : null, merged.Quantization);
        using var found = ModelRun.Logits(merged, TinyLlama.Inputs());
        Assert.True(found.sub(expected).abs().max().item<float>() < 1e-5, $"{found.sub(expected).abs().max().item<float>()}");
        Assert.Equal("MergeOriginalMissing", Assert.Throws<PeftException>(() => FolderMerge.Run(_folder["base"], [_folder["a"]], _folder["none"], options: options with { Ground = MergeGround.Original, OriginalPath = _folder["base"] })).ErrorId);
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
