using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;

namespace Peft.Tests.Adapters;

public class TargetMatcherTests
{
    [Fact]
    public void All_linear_leaves_the_output_layer_out_and_is_written_as_short_names()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.AllLinear });
        Assert.Equal(14, adapter.AdaptedModules.Count);
        Assert.DoesNotContain("lm_head", adapter.AdaptedModules);
        Assert.Equal(["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"], ((LayerwiseConfig)adapter.Config).TargetModules!.Names!.Order(StringComparer.Ordinal));
    }

    [Theory]
    [InlineData("llama", "LlamaForCausalLM", "q_proj, k_proj, v_proj, o_proj", "gate_proj, up_proj, down_proj")]
    [InlineData("gpt2", "GPT2LMHeadModel", "attn.c_attn, attn.c_proj", "mlp.c_fc, mlp.c_proj")]
    [InlineData("phi3", "Phi3ForCausalLM", "o_proj, qkv_proj", "gate_up_proj, down_proj")]
    [InlineData("opt", "OPTForCausalLM", "k_proj, v_proj, q_proj, out_proj", "fc1, fc2")]
    [InlineData("t5", "T5ForConditionalGeneration", "q, k, v, o", "wi, wo")]
    [InlineData("qwen3_5_text", "Qwen3_5ForCausalLM", "q_proj, k_proj, v_proj, o_proj, out_proj, in_proj_qkv, in_proj_z, in_proj_b, in_proj_a", "gate_proj, up_proj, down_proj")]
    public void Parts_of_the_blocks_are_named_alike_in_every_family(string type, string architecture, string attention, string mlp)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(Path.Combine(folder.Path, "config.json"), $$"""{ "model_type": "{{type}}", "architectures": ["{{architecture}}"] }""");
        using var model = PeftModel.Load(folder.Path, new LoadOptions { StructureOnly = true });
        Assert.Equal(Ends(attention), Adapted(PartNames.Attention));
        Assert.Equal(Ends(mlp), Adapted(PartNames.Mlp));
        Assert.Equal(model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.AllLinear }, "all").AdaptedModules.Order(StringComparer.Ordinal), Adapted(PartNames.Attention, PartNames.Mlp));

        string[] Ends(string names) => [.. model.Base.Descendants().Where(module => module.Path.Any(char.IsDigit) && names.Split(", ").Any(name => module.Path.EndsWith("." + name, StringComparison.Ordinal)))
            .Where(module => module is Peft.Models.Layers.Linear).Select(static module => module.Path).Order(StringComparer.Ordinal)];
        string[] Adapted(params string[] names) => [.. model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of(names) }, string.Join('_', names)).AdaptedModules.Order(StringComparer.Ordinal)];
    }

    [Fact]
    public void Nothing_given_takes_the_familys_defaults()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig());
        Assert.All(adapter.AdaptedModules, static path => Assert.Matches("(q|v)_proj$", path));
        Assert.Equal(4, adapter.AdaptedModules.Count);
    }

    [Fact]
    public void Parameters_are_targeted_by_endings_of_whole_parts_and_a_name_that_matches_none_is_said()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig { TargetParameters = ["1.mlp.down_proj.weight", "experts.down_proj"] });
        Assert.Equal(["model.layers.1.mlp.down_proj"], adapter.AdaptedModules);
        Assert.Contains(adapter.Report.Messages, static message => message.Contains("'experts.down_proj'", StringComparison.Ordinal));
    }

    [Fact]
    public void Target_parameters_of_which_none_matches_are_an_error()
    {
        using var model = TinyLlama.CreateStructure();
        Assert.Equal("NoModuleMatched", Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { TargetParameters = ["experts.down_proj"] })).ErrorId);
    }

    [Fact]
    public void Target_parameters_of_which_none_matches_are_told_where_modules_match()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("q_proj"), TargetParameters = ["experts.down_proj"] });
        Assert.Equal(2, adapter.AdaptedModules.Count);
        Assert.Contains(adapter.Report.Messages, static message => message.Contains("'experts.down_proj'", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("self_attn.q_proj", 2)]
    [InlineData("0.self_attn.q_proj", 1)]
    [InlineData("model.layers.1.mlp.down_proj", 1)]
    public void Names_match_whole_parts_from_the_end(string name, int count)
    {
        using var model = TinyLlama.CreateStructure();
        Assert.Equal(count, model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of(name) }).AdaptedModules.Count);
    }

    [Fact]
    public void A_misspelt_target_is_answered_with_the_name_it_may_mean()
    {
        using var model = TinyLlama.CreateStructure();
        var error = Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("qproj") }));
        Assert.EndsWith("Did you mean 'q_proj'?", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("proj")]
    [InlineData("_proj")]
    [InlineData("attn.q_proj")]
    public void Parts_of_a_name_match_nothing(string name)
    {
        using var model = TinyLlama.CreateStructure();
        Assert.Equal("NoModuleMatched", Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of(name) })).ErrorId);
    }

    [Theory]
    [InlineData(@".*\.1\.self_attn\.(q|o)_proj", 2)]
    [InlineData(@".*(?P<part>up)_proj", 2)]
    public void A_pattern_has_to_match_the_whole_path(string pattern, int count)
    {
        using var model = TinyLlama.CreateStructure();
        Assert.Equal(count, model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Matching(pattern) }).AdaptedModules.Count);
    }

    [Theory]
    [InlineData("(")]
    [InlineData(@"(a+)+\.$")]
    public void A_pattern_that_cannot_be_used_is_an_error(string pattern)
    {
        using var model = TinyLlama.CreateStructure();
        var id = Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Matching(pattern) })).ErrorId;
        Assert.Contains(id, new[] { "TargetPatternInvalid", "NoModuleMatched" });
    }

    [Fact]
    public void Layers_are_chosen_by_their_index()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("q_proj", "model.layers.0.mlp.up_proj"), LayersToTransform = [1], LayersPattern = ["layers"] });
        Assert.Equal(["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"], adapter.AdaptedModules);
    }

    [Fact]
    public void Targets_inside_a_saved_module_get_nothing()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("lm_head", "q_proj"), ModulesToSave = ["lm_head"] });
        Assert.DoesNotContain("lm_head", adapter.AdaptedModules);
        Assert.Contains(adapter.TrainableParameters, static parameter => parameter.FullKey == "base_model.model.lm_head.weight");
    }

    [Fact]
    public void What_matched_nothing_is_said()
    {
        using var model = TinyLlama.CreateStructure();
        var report = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("q_proj", "nowhere"), ExcludeModules = ModuleNames.Of("elsewhere") }).Report;
        Assert.Contains(report.Messages, static message => message.Contains("nowhere", StringComparison.Ordinal));
        Assert.Contains(report.Messages, static message => message.Contains("elsewhere", StringComparison.Ordinal));
    }

    [Fact]
    public void What_is_named_and_left_out_is_not_said_and_no_name_is_answered_with_itself_or_with_nothing()
    {
        using var model = TinyLlama.CreateStructure();
        Assert.Empty(model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("q_proj", "v_proj"), ExcludeModules = ModuleNames.Of("q_proj") }, "a").Report.Messages);

        var messages = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("v_proj", "x", "all-linear") }, "b").Report.Messages;

        Assert.Equal(2, messages.Count);
        Assert.EndsWith("names 'x', which matches no module.", messages[0], StringComparison.Ordinal);
        Assert.Contains("names 'all-linear', which has to stand alone", messages[1], StringComparison.Ordinal);
        var patterns = model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of("v_proj"), RankPattern = new Dictionary<string, int> { ["q_proj"] = 3 } }, "c").Report.Messages;
        Assert.DoesNotContain("Did you mean", Assert.Single(patterns), StringComparison.Ordinal);
    }

    [Fact]
    public void What_an_adapter_reaches_is_said_by_kind_and_count()
    {
        using var model = TinyLlama.CreateStructure();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "embed_tokens"), ModulesToSave = ["lm_head"] });
        Assert.Equal(["1 × embed_tokens (Embedding)", "2 × q_proj (Linear)", "1 × lm_head.weight (Linear)"], adapter.Coverage.Matched.Select(static row => row.ToString()));
        Assert.Equal(adapter.TrainableParameters.Sum(static parameter => parameter.Parameter.Count), adapter.Coverage.Matched.Sum(static row => row.Parameters));
        Assert.Empty(adapter.Coverage.Untrained);
    }

    [Fact]
    public void Patterns_keep_their_order_in_files_for_the_first_that_matches_counts()
    {
        var config = new LoraConfig { RankPattern = new Dictionary<string, int> { ["v_proj"] = 2, ["layers.0.*proj"] = 3, ["k_proj"] = 4 } };
        Assert.Equal(["v_proj", "layers.0.*proj", "k_proj"], ((System.Text.Json.Nodes.JsonObject)config.ToJson()["rank_pattern"]!).Select(static entry => entry.Key));
    }

    [Fact]
    public void Pattern_keys_match_whole_name_parts_and_the_first_wins()
    {
        var table = new Dictionary<string, int> { ["proj"] = 7, [@"layers\.1.*q_proj"] = 3, ["q_proj"] = 5 };
        Assert.Equal(5, TargetMatcher.Lookup(table, "model.layers.0.self_attn.q_proj", 1));
        Assert.Equal(3, TargetMatcher.Lookup(table, "model.layers.1.self_attn.q_proj", 1));
        Assert.Equal(1, TargetMatcher.Lookup(table, "model.layers.1.self_attn.v_proj", 1));
    }
}
