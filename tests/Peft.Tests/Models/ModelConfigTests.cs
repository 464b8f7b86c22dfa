using System.Text.Json.Nodes;
using Peft.Generation;
using Peft.Models;
using Peft.Tests.Tensors;

namespace Peft.Tests.Models;

public class ModelConfigTests
{
    [Theory]
    [InlineData("num_attention_heads", "0")]
    [InlineData("num_key_value_heads", "0")]
    [InlineData("num_key_value_heads", "3")]
    [InlineData("num_hidden_layers", "-1")]
    [InlineData("num_hidden_layers", "1000000000")]
    [InlineData("hidden_size", "1e400")]
    [InlineData("hidden_size", "2")]
    [InlineData("hidden_size", "16.5")]
    [InlineData("hidden_size", "\"wide\"")]
    [InlineData("head_dim", "4194304")]
    [InlineData("head_dim", "3")]
    [InlineData("rms_norm_eps", "1e300")]
    [InlineData("vocab_size", "[1]")]
    [InlineData("tie_word_embeddings", "1")]
    [InlineData("rope_parameters", """{"rope_type":"linear","partial_rotary_factor":1e300}""")]
    public void A_configuration_that_lies_is_an_error_and_no_crash(string key, string value)
    {
        var config = ModelConfig.FromText($$"""
            { "model_type": "llama", "vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "{{key}}": {{value}} }
            """);
        Assert.Equal("ModelConfigInvalid", Assert.Throws<PeftException>(() => ArchitectureRegistry.Create(config)).ErrorId);
    }

    [Theory]
    [InlineData("head_dim", 8, 0)]
    [InlineData("num_key_value_heads", 2, 2)]
    public void Layers_of_Gemma_4_that_share_positions_or_keys_have_the_same_heads(string key, int value, int sharing)
    {
        var config = ModelConfig.FromText($$$"""
            { "model_type": "gemma4_text", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 4, "global_head_dim": 4,
              "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
              "num_kv_shared_layers": {{{sharing}}}, "per_layer_config": { "2": { "{{{key}}}": {{{value}}} } } }
            """);
        var error = Assert.Throws<PeftException>(() => ArchitectureRegistry.Create(config));
        Assert.Equal("ModelConfigInvalid", error.ErrorId);
        Assert.Contains("Layer 2 ", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_factors_of_a_rotary_scaling_that_are_no_numbers_are_an_error()
    {
        var config = ModelConfig.FromText("""{ "rope_parameters": { "rope_type": "longrope", "factor": 2, "short_factor": [1, "b"], "long_factor": [1, 1] } }""");
        var frequencies = new Peft.Models.Layers.RotaryFrequencies(config, 4);
        Assert.Equal("ModelConfigInvalid", Assert.Throws<PeftException>(() => frequencies.For(1)).ErrorId);
    }

    [Theory]
    [InlineData("""{ "eos_token_id": "x" }""")]
    [InlineData("""{ "eos_token_id": [1, null] }""")]
    [InlineData("""{ "eos_token_id": 1e10 }""")]
    public void Token_ids_that_are_none_are_an_error(string json) =>
        Assert.Equal("ModelConfigInvalid", Assert.Throws<PeftException>(() => ModelConfig.FromText(json).TokenIds("eos_token_id")).ErrorId);

    [Fact]
    public void Generation_defaults_of_another_kind_are_an_error() => Assert.Equal(
        "ModelConfigInvalid", Assert.Throws<PeftException>(() => GenerationOptions.FromDefaults(new JsonObject { ["temperature"] = "hot" })).ErrorId);

    [Fact]
    public void Of_a_key_that_stands_twice_the_last_one_counts()
    {
        using var folder = new TemporaryFolder();
        var config = ModelConfig.FromFile(folder.Write("config.json", """{ "a": { "b": 1, "b": 2 }, "hidden_size": 8, "hidden_size": 16, "x": NaN }"""));
        Assert.Equal(16, config.Integer("hidden_size"));
        Assert.Equal(2, (int?)config.Node("a")!["b"]);
        Assert.Equal("JsonInvalid", Assert.Throws<PeftException>(() => ModelConfig.FromFile(folder.Write("config.json", "{"))).ErrorId);
        Assert.Equal("FileNotFound", Assert.Throws<PeftException>(() => ModelConfig.FromFile(folder["absent.json"])).ErrorId);
    }
}
