using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class LayerReplicationTests
{
    private static readonly LoraConfig s_config = new()
    {
        Rank = 2,
        TargetModules = ModuleNames.Of("q_proj", "v_proj"),
        LayerReplication = [[1, 2], [0, 2]],
    };

    [Fact]
    public void Blocks_stand_again_for_as_long_as_an_adapter_asks_for_it()
    {
        using var model = TinyLlama.Create();
        using var own = ModelRun.Logits(model, TinyLlama.Inputs());
        var (bits, document, parameters) = (ModelBits.Of(model.Base), model.Config.Document.ToJsonString(), model.Base.CountParameters());

        var adapter = model.AddAdapter(s_config, "more", 1).Perturb(2);
        using var more = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.Equal(3, model.Config.Integer("num_hidden_layers"));
        Assert.Equal(parameters, model.Base.CountParameters());
        Assert.Equal(6, adapter.AdaptedModules.Count);
        Assert.True(own.sub(more).abs().max().item<float>() > 1e-2);

        model.RemoveAdapter("more");
        using var again = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.Equal(0, own.sub(again).abs().max().item<float>());
        Assert.Equal((document, parameters), (model.Config.Document.ToJsonString(), model.Base.CountParameters()));
        Assert.Equal(bits, ModelBits.Of(model.Base));
    }

    [Fact]
    public void A_row_token_by_token_with_a_cache_is_the_row_at_once()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config, "more", 1).Perturb(2);
        var ids = TinyLlama.Inputs()["input_ids"];
        var whole = model.Base.Forward(ids, model.NewPass(new ForwardContext())).Hidden.view(2, 6, -1);
        using var cache = new ModelCache();
        for (var i = 0; i < 6; i++)
        {
            var step = model.Base.Forward(ids.narrow(1, i, 1), model.NewPass(new ForwardContext { Cache = cache })).Hidden;
            Assert.True(whole.select(1, i).sub(step).abs().max().item<float>() < 1e-4);
        }
    }

    [Fact]
    public void A_merged_model_whose_blocks_stand_again_is_saved_whole()
    {
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create(tied: true);
        model.AddAdapter(s_config, "more", 1).Perturb(2);
        using var beside = ModelRun.Logits(model, TinyLlama.Inputs());
        model.Merge(options: new MergeOptions { Unload = true });
        model.Save(folder.Path);

        using var loaded = new PeftModel(ModelLoader.Load(folder.Path), "loaded");
        using var merged = ModelRun.Logits(loaded, TinyLlama.Inputs());
        Assert.True(beside.sub(merged).abs().max().item<float>() < 1e-4);
        Assert.False(loaded.Base.FindParameter("lm_head.weight")!.IsOwner);
    }

    [Fact]
    public void Blocks_of_an_encoder_stand_again_too()
    {
        using var folder = new TemporaryFolder();
        using var noGradients = no_grad();
        var bare = RandomModel.Create("""
            {
              "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24,
              "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64
            }
            """);
        using var model = new PeftModel(bare, "encoder");
        using var own = ModelRun.Logits(model, TinyLlama.Inputs());
        model.AddAdapter(s_config with { TargetModules = ModuleNames.Of("query", "value"), TaskType = "SEQ_CLS" }, "more", 1).Perturb(2);
        using var more = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(own.sub(more).abs().max().item<float>() > 1e-3);
        model.Merge(options: new MergeOptions { Unload = true });
        model.Save(folder.Path);
        using var loaded = PeftModel.Load(folder.Path);
        using var merged = ModelRun.Logits(loaded, TinyLlama.Inputs());
        Assert.Equal(3, loaded.Config.Integer("num_hidden_layers"));
        Assert.True(more.sub(merged).abs().max().item<float>() < 1e-4);
    }

    [Fact]
    public void What_cannot_be_repeated_is_refused_and_leaves_the_model_as_it_was()
    {
        using var model = TinyLlama.Create();
        Assert.Equal("LayersInvalid", Refused(s_config with { LayerReplication = [[0, 3]] }));
        Assert.Equal("NoModuleMatched", Refused(s_config with { TargetModules = ModuleNames.Of("nothing") }));
        Assert.Equal(2, model.Config.Integer("num_hidden_layers"));
        model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("q_proj") }, "first");
        Assert.Equal("LayersInUse", Refused(s_config));

        string Refused(LoraConfig config) => Assert.Throws<PeftException>(() => model.AddAdapter(config, "more")).ErrorId;
    }
}
