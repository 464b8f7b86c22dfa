using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>What the names of single experts' layers mean today, on a mixture whose first block has an MLP like any other.</summary>
public class ExpertTargetTests
{
    [Fact]
    public void Names_of_single_experts_mean_the_parameters_that_hold_them_and_modules_of_that_name()
    {
        using var model = Mixture();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 3, Alpha = 6, TargetModules = ModuleNames.Of("q_proj", "gate_proj", "up_proj", "down_proj", "gate") });
        var config = (LoraConfig)adapter.Config;
        Assert.Equal(["gate_up_proj", "down_proj", "gate.weight"], config.TargetParameters);
        Assert.Equal(["q_proj", "gate_proj", "up_proj", "down_proj"], config.TargetModules!.Names);
        Assert.Equal(
            ["model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.experts", "model.layers.1.mlp.experts.base_layer", "model.layers.1.mlp.gate"],
            adapter.AdaptedModules.Where(static path => !path.EndsWith("q_proj", StringComparison.Ordinal)).Order(StringComparer.Ordinal));
        var experts = adapter.Adapter.Layers.Where(static layer => layer.Layer.Experts > 1).ToDictionary(static layer => layer.Layer.Weight.Name, layer => config.ForLayer(layer.Layer));
        Assert.Equal((6, 2.0), experts["gate_up_proj"]);
        Assert.Equal((3, 2.0), experts["down_proj"]);
    }

    [Fact]
    public void All_linear_means_experts_and_routers_with_LoRA_and_linear_layers_alone_with_other_methods()
    {
        using var model = Mixture();
        var lora = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear }, "lora");
        Assert.Contains(lora.Adapter.Layers, static layer => layer.Layer is Router);
        Assert.DoesNotContain("model.layers.0.mlp.gate_proj", lora.AdaptedModules);
        var loha = model.AddAdapter(new LoHaConfig { Rank = 2, TargetModules = ModuleNames.AllLinear }, "loha");
        Assert.All(loha.Adapter.Layers, static layer => Assert.IsType<Peft.Models.Layers.Linear>(layer.Layer));
        Assert.Contains("model.layers.0.mlp.gate_proj", loha.AdaptedModules);
    }

    [Fact]
    public void Patterns_of_experts_parameters_are_not_said_to_match_nothing()
    {
        using var model = Mixture();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 3, Alpha = 6, TargetModules = ModuleNames.Of("q_proj", "gate_proj", "up_proj", "down_proj") });
        Assert.DoesNotContain(adapter.Report.Messages, static message => message.Contains("matches no target", StringComparison.Ordinal));
        var wrong = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("q_proj"), RankPattern = new Dictionary<string, int> { ["z_proj"] = 2 } }, "wrong");
        Assert.Contains(wrong.Report.Messages, static message => message.Contains("'z_proj', which matches no target", StringComparison.Ordinal));
    }

    [Fact]
    public void The_part_behind_attention_has_experts_too()
    {
        using var model = Mixture();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of(PartNames.Mlp) });
        Assert.Equal(["down_proj", "gate_up_proj"], ((LoraConfig)adapter.Config).TargetParameters!.Order(StringComparer.Ordinal));
        Assert.Contains("model.layers.0.mlp.gate_proj", adapter.AdaptedModules);
        Assert.DoesNotContain(adapter.AdaptedModules, static path => path.Contains("self_attn", StringComparison.Ordinal));
    }

    [Fact]
    public void One_of_two_layers_that_are_one_weight_is_refused_by_the_others_name()
    {
        using var model = Mixture();
        var error = Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("gate_proj") }));
        Assert.Contains("up_proj", error.Message, StringComparison.Ordinal);
        Assert.Equal("AdapterConfigContradictory", error.ErrorId);
    }

    [Fact]
    public void Factors_of_each_expert_are_written_on_request_and_mean_the_same()
    {
        using var model = Mixture();
        using var scope = NewDisposeScope();
        var parameters = model.AddAdapter(new LoraConfig { Rank = 3, Alpha = 6, TargetModules = ModuleNames.Of("q_proj"), TargetParameters = ["gate_up_proj", "down_proj", "gate.weight"] }, "made").TrainableParameters;
        foreach (var parameter in parameters)
        {
            parameter.Parameter.Assign(randn([.. parameter.Parameter.Shape]));
        }

        using var folder = new TemporaryFolder();
        model.SaveAdapter("made", folder.Path, layout: AdapterLayout.PerExpert);
        using (var file = TensorStore.OpenFolder(folder.Path, "adapter_model"))
        {
            Assert.Equal([8, 3], file.Entry("base_model.model.model.layers.1.mlp.experts.2.up_proj.lora_B.weight").Shape);
            Assert.Equal(2 + (3 * 3 * 2) + 2 + 2, file.Names.Count);
        }

        // The first block's MLP has layers of these names, which the adapter leaves alone.
        var config = AdapterConfig.FromFolder(folder.Path);
        Assert.Contains(@"experts\.\d+\.gate_proj", ((LoraConfig)config).TargetModules!.Pattern, StringComparison.Ordinal);
        var read = model.LoadAdapter(folder.Path, "read");
        Assert.Empty(read.Report.Missing);
        Assert.Empty(read.Report.Unexpected);
        var changes = new[] { "made", "read" }.Select(name => model[name].Adapter.Layers.ToDictionary(static layer => layer.Layer.Weight, static layer => layer.Adapter.Merge(Zero(layer.Layer), Zero(layer.Layer)).Weight)).ToArray();
        Assert.Equal(changes[0].Keys.ToHashSet(), changes[1].Keys.ToHashSet());
        Assert.All(changes[0], change => Models.TensorAssert.Close(change.Value, changes[1][change.Key], 1e-6, 1e-6));
    }

    [Fact]
    public void Experts_that_never_had_layers_of_their_own_are_refused_by_name()
    {
        using var model = Loaded(ArchitectureRegistry.Create(ModelConfig.FromText("""
            {
              "model_type": "gpt_oss", "vocab_size": 41, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
              "num_local_experts": 3, "num_experts_per_tok": 2
            }
            """)));
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj"), TargetParameters = ["gate_up_proj"] }, "a");
        using var folder = new TemporaryFolder();
        var path = Path.Combine(folder.Path, "a");
        var error = Assert.Throws<NotSupportedByPeftException>(() => model.SaveAdapter("a", path, layout: AdapterLayout.PerExpert));
        Assert.Contains("gpt_oss", error.Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(path));
    }

    private static Affine Zero(IAdaptable layer) => new(zeros([.. layer.Weight.Shape]), null);

    private static PeftModel Mixture()
    {
        var structure = ArchitectureRegistry.Create(ModelConfig.FromText("""
            {
              "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "num_experts": 3, "num_experts_per_tok": 2, "mlp_only_layers": [0],
              "max_position_embeddings": 64
            }
            """));
        return Loaded(structure);
    }

    private static PeftModel Loaded(PretrainedModel structure)
    {
        foreach (var (_, parameter, _) in structure.NamedWeights())
        {
            parameter.Assign(randn([.. parameter.Shape]).DetachFromDisposeScope());
        }

        structure.Prepare();
        return new PeftModel(structure, "mixture");
    }
}
