using Peft.Adapters.Combination;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>One adapter made of several, where the peer's cases don't reach.</summary>
public class CombinationTests
{
    private static readonly LoraConfig s_config = new() { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj", "v_proj") };

    [Fact]
    public void Side_by_side_computes_the_weighted_sum_of_the_changes()
    {
        using var model = Model();
        model.SetActive(new[] { new ActiveAdapter("a", 0.5f), new ActiveAdapter("b", -2) });
        using var both = ModelRun.Logits(model, TinyLlama.Inputs());
        model.CombineAdapters(["a", "b"], [0.5, -2], "sum", new CombinationOptions { Type = CombinationType.Cat });
        Assert.Equal(["a", "b"], model.ActiveAdapters);
        model.SetActive("sum");
        using var combined = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(combined.sub(both).abs().max().item<float>() < 1e-5);
        Assert.Equal(5, ((LoraConfig)model["sum"].Config).Rank);
    }

    [Theory]
    [InlineData("""{"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj"]}""")]
    [InlineData("""{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "use_dora": true, "modules_to_save": ["model.norm"]}""")]
    [InlineData("""{"peft_type": "VERA", "r": 8, "target_modules": ["v_proj"]}""")]
    public void A_round_of_several_sites_is_the_mean_by_their_numbers_of_examples(string config)
    {
        using var model = TinyLlama.Create();
        foreach (var (name, seed) in new[] { ("a", 1UL), ("b", 2UL) })
        {
            model.AddAdapter(Peft.Adapters.AdapterConfig.FromJson((System.Text.Json.Nodes.JsonObject)System.Text.Json.Nodes.JsonNode.Parse(config)!), name, seed: 5).Perturb(seed);
        }

        var mean = model.CombineAdapters(["a", "b"], [300, 100], "mean", new CombinationOptions { Type = CombinationType.Average });
        var (one, other) = (model["a"].TrainableParameters, model["b"].TrainableParameters);
        Assert.All(mean.TrainableParameters.Select(static (parameter, index) => (parameter, index)), entry =>
        {
            using var expected = one[entry.index].Parameter.Data.mul(0.75) + other[entry.index].Parameter.Data.mul(0.25);
            Assert.True(entry.parameter.Parameter.Data.sub(expected).abs().max().item<float>() < 1e-6);
        });
        Assert.Equal("CombinationInvalid", Assert.Throws<PeftException>(() => model.CombineAdapters(["a", "b"], [1, -1], "c", new CombinationOptions { Type = CombinationType.Average })).ErrorId);
    }

    [Theory]
    [InlineData(CombinationType.Linear, false)]
    [InlineData(CombinationType.Cat, false)]
    [InlineData(CombinationType.Svd, false)]
    [InlineData(CombinationType.Cat, true)]
    [InlineData(CombinationType.Svd, true)]
    public void A_rank_stabilised_adapter_alone_in_a_combination_keeps_its_strength(CombinationType type, bool withPattern)
    {
        using var model = TinyLlama.Create();
        var config = s_config with { Rank = 4, UseRslora = true };
        model.AddAdapter(withPattern ? config with { RankPattern = new Dictionary<string, int> { ["layers.1.self_attn.q_proj"] = 9 } } : config, "a", seed: 3).Perturb(4);
        foreach (var weight in new[] { 1f, -1f, 0.5f })
        {
            model.SetActive(new[] { new ActiveAdapter("a", weight) });
            using var alone = ModelRun.Logits(model, TinyLlama.Inputs());
            model.CombineAdapters(["a"], [weight], "joined", new CombinationOptions { Type = type });
            model.SetActive("joined");
            using var joined = ModelRun.Logits(model, TinyLlama.Inputs());
            Assert.True(joined.sub(alone).abs().max().item<float>() < 1e-4);
            model.RemoveAdapter("joined");
        }
    }

    [Fact]
    public void Clamping_cuts_both_factors_at_one_quantile()
    {
        using var model = Model();
        var whole = model.CombineAdapters(["a", "b"], [1, 1], "whole").Adapter.Layers[0].Adapter.LowRank(1)!;
        var cut = model.CombineAdapters(["a", "b"], [1, 1], "cut", new CombinationOptions { Clamp = 0.75 }).Adapter.Layers[0].Adapter.LowRank(1)!;

        // The quantile of n sorted values lies at 0.75 (n - 1), between two of them.
        float[] values = [.. whole.B.Data.cpu().data<float>().Concat(whole.A.Data.cpu().data<float>()).Order()];
        var place = 0.75 * (values.Length - 1);
        var (below, above) = (values[(int)place], values[(int)place + 1]);
        var limit = below + ((above - below) * (place - (int)place));
        foreach (var (expected, actual) in new[] { (whole.A, cut.A), (whole.B, cut.B) })
        {
            using var difference = expected.Data.clamp(-limit, limit).sub(actual.Data).abs().max();
            Assert.True(difference.item<float>() < 1e-6);
        }
    }

    [Fact]
    public void What_is_dropped_at_random_repeats_with_a_seed()
    {
        using var model = Model();
        var options = new CombinationOptions { Type = CombinationType.DareLinear, Density = 0.5, Seed = 3 };
        float[] Factor(string name, CombinationOptions how) =>
            model.CombineAdapters(["a", "a2"], [1, 1], name, how).Adapter.Layers[0].Adapter.LowRank(1)!.A.Data.cpu().data<float>().ToArray();
        var first = Factor("first", options);
        Assert.Equal(first, Factor("again", options));
        Assert.NotEqual(first, Factor("other", options with { Seed = 4 }));
    }

    [Fact]
    public void A_module_that_one_part_saved_comes_along()
    {
        using var model = Model();
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "head", seed: 4).Perturb(5);
        var saved = Assert.Single(model["head"].Adapter.Overlays).Copy.Data;
        model.CombineAdapters(["a", "head"], [1, 1], "sum");
        Assert.Equal(["lm_head"], model["sum"].Config.ModulesToSave);
        Assert.Equal(saved.data<float>().ToArray(), Assert.Single(model["sum"].Adapter.Overlays).Copy.Data.data<float>().ToArray());
    }

    [Fact]
    public void What_cannot_be_combined_is_refused_and_leaves_the_model_as_it_was()
    {
        using var model = Model();
        model.AddAdapter(new IA3Config { TargetModules = ModuleNames.Of("q_proj"), FeedforwardModules = ModuleNames.Of() }, "ia3", seed: 1);
        model.AddAdapter(s_config with { TargetModules = ModuleNames.Matching(".*q_proj") }, "pattern", seed: 1);
        var names = model.Adapters.Select(static adapter => adapter.Name).ToArray();
        string Refused(string[] parts, double[] weights, string name, CombinationOptions? options = null) =>
            Assert.Throws<PeftException>(() => model.CombineAdapters(parts, weights, name, options)).ErrorId;
        Assert.Equal("CombinationInvalid", Refused([], [], "sum"));
        Assert.Equal("CombinationInvalid", Refused(["a", "b"], [1], "sum"));
        Assert.Equal("CombinationInvalid", Refused(["a", "ia3"], [1, 1], "sum"));
        Assert.Equal("CombinationInvalid", Refused(["ia3", "a"], [1, 1], "sum"));
        Assert.Equal("CombinationInvalid", Refused(["a", "pattern"], [1, 1], "sum"));
        Assert.Equal("CombinationInvalid", Refused(["a", "b"], [1, 1], "sum", new() { Type = CombinationType.Linear }));
        Assert.Equal("CombinationInvalid", Refused(["a", "b"], [1, 1], "sum", new() { Type = CombinationType.TiesSvd }));
        Assert.Equal("AdapterExists", Refused(["a", "b"], [1, 1], "a"));
        Assert.Equal("AdapterNameInvalid", Refused(["a", "b"], [1, 1], "a.b"));
        Assert.Equal("AdapterNotFound", Refused(["a", "c"], [1, 1], "sum"));
        Assert.Equal(names, model.Adapters.Select(static adapter => adapter.Name));
    }

    /// <summary>A model with adapters of the ranks 2 (a, a2) and 3 (b).</summary>
    private static PeftModel Model()
    {
        var model = TinyLlama.Create();
        model.AddAdapter(s_config, "a", seed: 1).Perturb(1);
        model.AddAdapter(s_config, "a2", seed: 2).Perturb(2);
        model.AddAdapter(s_config with { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "up_proj") }, "b", seed: 3).Perturb(3);
        model.SetActive(["a", "b"]);
        return model;
    }
}
