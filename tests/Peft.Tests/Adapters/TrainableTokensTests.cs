using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Adapters.Targets;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class TrainableTokensTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Vectors_of_tokens_merge_and_come_out_again_and_tied_weights_stay_tied(bool tied)
    {
        using var model = TinyLlama.Create(tied);
        model.AddAdapter(new TrainableTokensConfig { TokenIndices = [4, 9] }).Perturb(1);
        var inputs = TinyLlama.Inputs();
        inputs["input_ids"][0, 1] = 9;
        var before = ModelBits.Of(model.Base);
        using var beside = ModelRun.Logits(model, inputs);
        using var own = ModelRun.Logits(model, inputs, AdapterSelection.Base);
        Assert.True(beside.sub(own).abs().max().item<float>() > 1e-2);

        model.Merge(options: new MergeOptions { Safe = true });
        using var merged = ModelRun.Logits(model, inputs);
        Assert.Equal(tied, !model.Base.FindParameter("lm_head.weight")!.IsOwner);
        model.UndoMerge();

        Assert.True(beside.sub(merged).abs().max().item<float>() < 1e-5);
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Fact]
    public void An_adapter_of_no_tokens_changes_nothing()
    {
        using var model = TinyLlama.Create();
        var inputs = TinyLlama.Inputs();
        using var own = ModelRun.Logits(model, inputs);
        model.AddAdapter(new TrainableTokensConfig { TokenIndices = [] });
        using var beside = ModelRun.Logits(model, inputs);
        Assert.True(own.eq(beside).all().ToBoolean());
    }

    [Fact]
    public void Tied_layers_train_one_set_of_vectors_and_each_row_may_have_its_own()
    {
        using var model = TinyLlama.Create(tied: true);
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj"), TrainableTokens = new([4, 9]) }, "a", 1).Perturb(2);
        Assert.Equal(2 * 16, Assert.Single(adapter.TrainableParameters, static entry => entry.FullKey.EndsWith("token_adapter.trainable_tokens_delta", StringComparison.Ordinal)).Parameter.Count);
        model.AddAdapter(new TrainableTokensConfig { TokenIndices = [5] }, "b", 3).Perturb(4);
        using var mixed = ModelRun.Logits(model, TinyLlama.Inputs(), model.SelectRows(["b", "a"]));
        using var a = ModelRun.Logits(model, TinyLlama.Inputs(), AdapterSelection.Of("a"));
        using var b = ModelRun.Logits(model, TinyLlama.Inputs(), AdapterSelection.Of("b"));
        Assert.True(mixed[0].sub(b[0]).abs().max().item<float>() < 1e-5);
        Assert.True(mixed[1].sub(a[1]).abs().max().item<float>() < 1e-5);
    }

    [Fact]
    public void What_cannot_be_is_refused_by_name()
    {
        using var model = TinyLlama.Create();
        Assert.Equal("TokenOutOfRange", Refused(new TrainableTokensConfig { TokenIndices = [TinyLlama.Vocabulary] }));
        Assert.Equal("AdapterConfigContradictory", Refused(new LoraConfig { TargetModules = ModuleNames.Of("embed_tokens"), TrainableTokens = new([1]) }));
        Assert.Equal("NoModuleMatched", Refused(Lora("nowhere")));
        Assert.Equal("TargetKindNotSupported", Refused(Lora("norm")));

        string Refused(AdapterConfig config) => Assert.Throws<PeftException>(() => model.AddAdapter(config)).ErrorId;

        static LoraConfig Lora(string module) => new()
        {
            TargetModules = ModuleNames.Of("q_proj"),
            TrainableTokens = new(null, new Dictionary<string, IReadOnlyList<int>> { [module] = [1] }),
        };
    }
}
