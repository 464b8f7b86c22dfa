using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;

namespace Peft.Tests.Adapters;

public class LoraConfigTests
{
    public static TheoryData<string, string> Variants => new()
    {
        { "megatron_config", """{"a":1}""" },
        { "enable_lora", "[true,false,true]" },
    };

    [Theory]
    [MemberData(nameof(Variants))]
    public void A_variant_without_code_is_refused_by_its_key(string key, string value)
    {
        var config = Read($$"""{"peft_type":"LORA","target_modules":["q_proj"],"{{key}}":{{value}}}""");
        var error = Assert.Throws<NotSupportedByPeftException>(config.Validate);
        Assert.Contains(key, error.Message, StringComparison.Ordinal);
        Assert.Equal(key, error.Target);
    }

    [Theory]
    [InlineData("eva_config", """{"rho":0.5}""")]
    [InlineData("corda_config", """{"corda_method":"mpm"}""")]
    [InlineData("lora_ga_config", """{"direction":"up"}""")]
    [InlineData("arrow_config", """{"top_k":0}""")]
    [InlineData("velora_config", """{"init_type":"none"}""")]
    [InlineData("monteclora_config", """{"num_samples":0}""")]
    public void Settings_of_a_start_that_are_none_are_refused(string key, string value) =>
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => Read($$"""{"peft_type":"LORA","{{key}}":{{value}}}""").Validate()).ErrorId);

    [Theory]
    [InlineData("""{"peft_type":"LORA","r":"4"}""", "r ")]
    [InlineData("""{"peft_type":"LORA","r":2.5}""", "r ")]
    [InlineData("""{"peft_type":"LORA","use_rslora":"yes"}""", "use_rslora")]
    [InlineData("""{"peft_type":"LORA","target_modules":[1]}""", "target_modules")]
    [InlineData("""{"peft_type":"LORA","rank_pattern":[1]}""", "rank_pattern")]
    [InlineData("""{"r":4}""", "peft_type")]
    public void A_value_of_the_wrong_kind_is_named_by_its_key(string json, string key)
    {
        var error = Assert.Throws<PeftException>(() => Read(json));
        Assert.Equal("AdapterConfigInvalid", error.ErrorId);
        Assert.Contains(key, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Keys_that_nobody_knows_are_kept()
    {
        var written = Read("""{"peft_type":"LORA","warp_factor":9,"nested":{"a":[1,2]}}""").ToJson();
        Assert.Equal(9, (int)written["warp_factor"]!);
        Assert.Equal("""{"a":[1,2]}""", written["nested"]!.ToJsonString());
    }

    [Fact]
    public void A_configuration_survives_writing_and_reading()
    {
        var config = new LoraConfig
        {
            TaskType = "CAUSAL_LM",
            Rank = 5,
            Alpha = 7.5,
            Dropout = 0.1,
            TargetModules = ModuleNames.Of("q_proj", "v_proj"),
            ExcludeModules = ModuleNames.Matching(@".*\.0\..*"),
            LayersToTransform = [1, 3],
            LayersPattern = ["layers"],
            RankPattern = new Dictionary<string, int> { ["v_proj"] = 2 },
            AlphaPattern = new Dictionary<string, double> { ["q_proj"] = 1.5 },
            ModulesToSave = ["lm_head"],
            Bias = BiasTraining.Adapted,
            UseRslora = true,
            LoraBias = true,
            Initialisation = "gaussian",
        };

        var again = AdapterConfig.FromJson(config.ToJson());

        Assert.Equal(config.ToJson().ToJsonString(), again.ToJson().ToJsonString());
        Assert.Equal(["v_proj"], ((LoraConfig)again).RankPattern.Keys);
        Assert.Equal(BiasTraining.Adapted, ((LoraConfig)again).Bias);
        Assert.Equal("gaussian", ((LoraConfig)again).Initialisation);
    }

    [Fact]
    public void Numbers_are_written_the_same_under_every_culture()
    {
        var before = System.Globalization.CultureInfo.CurrentCulture;
        try
        {
            System.Globalization.CultureInfo.CurrentCulture = new System.Globalization.CultureInfo("tr-TR");
            Assert.Contains("\"lora_alpha\":7.5", new LoraConfig { Alpha = 7.5 }.ToJson().ToJsonString(), StringComparison.Ordinal);
            Assert.Equal("trainable params: 1,234 || all params: 123,400 || trainable%: 1.0000", new ParameterCounts(1234, 123400).ToString());
        }
        finally
        {
            System.Globalization.CultureInfo.CurrentCulture = before;
        }
    }

    [Theory]
    [InlineData("AdapterConfigContradictory", """{"peft_type":"LORA","target_modules":["q_proj"],"layers_pattern":"layers"}""")]
    [InlineData("AdapterConfigContradictory", """{"peft_type":"LORA","target_modules":".*q_proj","layers_to_transform":[0]}""")]
    [InlineData("AdapterConfigContradictory", """{"peft_type":"LORA","target_modules":".*q_proj","layers_pattern":"layers"}""")]
    [InlineData("TaskTypeUnknown", """{"peft_type":"LORA","target_modules":["q_proj"],"task_type":"POETRY"}""")]
    [InlineData("AdapterConfigContradictory", """{"peft_type":"LORA","target_modules":["q_proj"],"use_dora":true,"lora_bias":true}""")]
    [InlineData("AdapterConfigContradictory", """{"peft_type":"IA3","target_modules":["q_proj"],"feedforward_modules":["down_proj"]}""")]
    public void Values_that_the_peers_own_configuration_refuses_are_refused(string errorId, string json) =>
        Assert.Equal(errorId, Assert.ThrowsAny<PeftException>(() => Read(json).Validate()).ErrorId);

    [Theory]
    [InlineData("0", "\"h\"")]
    [InlineData("[0]", "[\"h\"]")]
    [InlineData("[0,1]", "null")]
    public void A_single_value_is_written_as_it_stood(string layers, string pattern)
    {
        var written = Read($$"""{"peft_type":"LORA","target_modules":["q_proj"],"layers_to_transform":{{layers}},"layers_pattern":{{pattern}}}""").ToJson();
        Assert.Equal(layers, written["layers_to_transform"]!.ToJsonString());
        Assert.Equal(pattern, written["layers_pattern"]?.ToJsonString() ?? "null");
    }

    private static AdapterConfig Read(string json) => AdapterConfig.FromJson((JsonObject)JsonNode.Parse(json)!);
}
