using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Adapters on convolutions and PyTorch's attention, in a model without a backbone.</summary>
public class PlainModelTests
{
    private static readonly Dictionary<string, LayerwiseConfig> s_configs = new()
    {
        ["lora"] = new LoraConfig { Rank = 2, Alpha = 3, TargetModules = ModuleNames.Of("conv1", "conv3", "conv1d", "attn", "lin") },
        ["dora"] = new LoraConfig { Rank = 2, Alpha = 3, UseDora = true, TargetModules = ModuleNames.Of("conv1", "conv1d") },
        ["loha"] = new LoHaConfig { Rank = 2, Alpha = 3, TargetModules = ModuleNames.Of("conv1", "conv2", "conv1d") },
        ["loha-core"] = new LoHaConfig { Rank = 2, Alpha = 3, UseEffectiveConvolution = true, TargetModules = ModuleNames.Of("conv1", "conv2", "conv3") },
        ["lokr"] = new LoKrConfig { Rank = 1, Alpha = 3, TargetModules = ModuleNames.Of("conv1", "conv2", "conv1d") },
        ["lokr-core"] = new LoKrConfig { Rank = 1, Alpha = 3, UseEffectiveConvolution = true, TargetModules = ModuleNames.Of("conv1", "conv2") },
        ["ia3"] = new IA3Config { TargetModules = ModuleNames.Of("conv1", "conv2", "lin"), FeedforwardModules = ModuleNames.Of("conv2") },
    };

    public static IEnumerable<object[]> Pairs() => from first in s_configs.Keys from second in s_configs.Keys where first != second select new object[] { first, second };

    [Theory]
    [MemberData(nameof(Pairs))]
    public void Merged_adapters_of_convolutions_compute_what_they_compute_beside_the_weights(string first, string second)
    {
        using var model = Create();
        model.AddAdapter(s_configs[first], first, 1).Perturb(2);
        model.AddAdapter(s_configs[second], second, 3).Perturb(4);
        model.SetActive(first, second);
        var before = ModelBits.Of(model.Base);
        using var beside = ModelRun.Logits(model, Inputs());

        model.Merge(options: new MergeOptions { Safe = true });
        using var merged = ModelRun.Logits(model, Inputs());
        model.UndoMerge();

        Assert.True(AdapterGolden.Difference(beside, merged) < 1e-4, $"{AdapterGolden.Difference(beside, merged)}");
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Fact]
    public void LoRA_on_groups_acts_and_says_why_it_cannot_be_merged()
    {
        using var model = Create();
        using var own = ModelRun.Logits(model, Inputs());
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("conv2") }, "groups", 1).Perturb(2);
        using var adapted = ModelRun.Logits(model, Inputs());
        Assert.True(AdapterGolden.Difference(own, adapted) > 1e-3);
        Assert.Equal("MergeNotPossible", Assert.Throws<PeftException>(() => model.Merge()).ErrorId);
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("conv2") }, "odd")).ErrorId);
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { Initialisation = "pissa", TargetModules = ModuleNames.Of("conv1") }, "start")).ErrorId);
    }

    [Fact]
    public void Each_row_of_images_has_the_adapter_it_names()
    {
        using var model = Create();
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("conv1", "conv3") }, "a", 1).Perturb(2);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("conv1") }, "b", 3).Perturb(4);
        using var mixed = ModelRun.Logits(model, Inputs(), model.SelectRows(["b", "a"]));
        using var a = ModelRun.Logits(model, Inputs(), AdapterSelection.Of("a"));
        using var b = ModelRun.Logits(model, Inputs(), AdapterSelection.Of("b"));
        Assert.True(AdapterGolden.Difference(mixed[0], b[0]) < 1e-5);
        Assert.True(AdapterGolden.Difference(mixed[1], a[1]) < 1e-5);
    }

    [Fact]
    public void What_reads_tokens_refuses_a_model_without_a_backbone_by_name()
    {
        using var model = Create();
        Assert.Equal("BackboneMissing", Assert.Throws<NotSupportedByPeftException>(() => model.Base.Backbone).ErrorId);
        Assert.Equal(ScalarType.Float32, model.Base.DataType);
    }

    private static PeftModel Create()
    {
        var plain = new PlainModel((JsonObject)JsonNode.Parse("""{"arguments":{"vocab":11,"dim":6,"heads":2,"channels":8,"groups":2,"outputs":3}}""")!);
        using var noGradients = no_grad();
        using var generator = new Generator(1);
        foreach (var (_, parameter, _) in plain.NamedParameters())
        {
            parameter.Assign(empty([.. parameter.Shape]).normal_(0, 0.4, generator));
        }

        return new PeftModel(plain, "plain");
    }

    private static Dictionary<string, Tensor> Inputs()
    {
        using var generator = new Generator(7);
        return new()
        {
            ["images"] = empty(2, 3, 6, 6).normal_(0, 1, generator),
            ["tokens"] = randint(0, 11, [2, 5], dtype: ScalarType.Int64, generator: generator),
        };
    }
}
