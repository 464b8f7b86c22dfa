using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Tests.Adapters;
using Peft.Tests.Generation;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Which layers a BitsAndBytesConfig quantises: those that transformers does.</summary>
public class QuantizationConfigTests
{
    // What transformers' should_convert_module says of these paths.
    [Theory]
    [InlineData("""["lm_head"]""", "model.layers.0.self_attn.q_proj", false)]
    [InlineData("""["down_proj"]""", "model.layers.1.mlp.down_proj", true)]
    [InlineData("""["down_proj"]""", "model.layers.1.mlp.up_proj", false)]
    [InlineData("""["proj"]""", "model.layers.1.mlp.up_proj", true)]
    [InlineData("""["model.layers.1"]""", "model.layers.1.mlp.up_proj", true)]
    [InlineData("""["model.layers.1"]""", "model.layers.11.mlp.up_proj", false)]
    [InlineData("""["model.layers.1."]""", "model.layers.1.mlp.up_proj", true)]
    [InlineData("""["model.layers.*.mlp"]""", "model.layers.11.mlp.up_proj", true)]
    [InlineData("""["model.layers.*.mlp"]""", "model.layers.11.self_attn.q_proj", false)]
    [InlineData("""["model.layers.*.mlp.gate"]""", "model.layers.1.mlp.gate_proj", false)]
    [InlineData("""["model\\.layers\\.[0-2]\\..*"]""", "model.layers.2.mlp.up_proj", true)]
    [InlineData("""["x|model.layers.0"]""", "model.layers.0.mlp.up_proj", true)]
    [InlineData("""["mlp"]""", "model.layers.0.mlp.up_proj", false)]
    [InlineData("""["layers.0"]""", "model.layers.0.mlp.up_proj", false)]
    [InlineData("[]", "lm_head", false)]
    [InlineData("[null, \"lm_head\"]", "lm_head", true)]
    [InlineData("\"lm_head\"", "lm_head", true)]
    [InlineData("null", "null", false)]
    [InlineData("\"null\"", "null", false)]
    public void Modules_are_skipped_by_the_end_of_their_path_or_an_expression_that_it_begins_with(string skipped, string path, bool isSkipped) =>
        Assert.Equal(isSkipped, Config(skipped).Skips(path));

    [Theory]
    [InlineData("null")]
    [InlineData("\"null\"")]
    [InlineData("\"None\"")]
    public void Without_a_list_the_head_stays(string skipped)
    {
        using var model = TinyLlama.Create();
        ModelQuantizer.Quantize(model.Base, Config(skipped));
        Assert.All(model.Base.Descendants().OfType<Linear>(), static layer => Assert.Equal(layer.Path != "lm_head", layer.Weight.Packed is not null));
        Assert.Null(model.Base.Config.Document["quantization_config"]!["llm_int8_skip_modules"]);
    }

    [Fact]
    public void An_empty_list_skips_nothing()
    {
        using var model = TinyLlama.Create();
        ModelQuantizer.Quantize(model.Base, Config("[]"));
        Assert.All(model.Base.Descendants().OfType<Linear>(), static layer => Assert.NotNull(layer.Weight.Packed));
    }

    [Fact]
    public void Only_of_experts_that_stay_as_they_are_something_is_said()
    {
        using var plain = TinyLlama.Create();
        ModelQuantizer.Quantize(plain.Base, Config("null"));
        Assert.Null(ModelQuantizer.UnquantizedExperts(plain.Base));
        using var mixture = RecordedExpertTests.Create("mixtral", ScalarType.Float32);
        ModelQuantizer.Quantize(mixture.Base, Config("null"));
        Assert.Contains("model.layers.*.mlp.experts.down_proj take 6 of the ", ModelQuantizer.UnquantizedExperts(mixture.Base), StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_no_expression_is_refused()
    {
        var error = Assert.Throws<PeftException>(() => Config("""["model.(layers"]"""));
        Assert.Equal("QuantizationInvalid", error.ErrorId);
        Assert.Contains("model.(layers", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("t5", "T5ForConditionalGeneration", "null")]
    [InlineData("mt5", "MT5ForConditionalGeneration", "null")]
    [InlineData("t5", "T5ForConditionalGeneration", """["lm_head"]""")]
    public void The_second_layer_of_a_T5s_MLP_stays_plain_as_transformers_leaves_it(string type, string name, string skipped)
    {
        using var model = ArchitectureRegistry.Create(ModelConfig.FromText(
            $$"""{ "model_type": "{{type}}", "architectures": ["{{name}}"], "vocab_size": 41, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0 }"""));
        var targets = new ModelQuantizer(Config(skipped)).Targets(model).Select(static layer => layer.Path).ToHashSet();
        Assert.All(model.Backbone.Descendants().OfType<Linear>(), layer => Assert.Equal(!layer.Path.EndsWith(".wo", StringComparison.Ordinal), targets.Contains(layer.Path)));
        Assert.DoesNotContain("lm_head", targets);
    }

    // transformers' BitsAndBytesConfig raises TypeError of a whole number, and the folder isn't loaded.
    [Theory]
    [InlineData(6, "6.0")]
    [InlineData(0, "0.0")]
    [InlineData(0.5, "0.5")]
    public void The_threshold_is_written_as_Python_reads_a_float(double threshold, string text) =>
        Assert.Equal(text, new QuantizationConfig { LoadIn8Bit = true, Threshold = threshold }.ToJson()["llm_int8_threshold"]!.ToJsonString());

    [Theory]
    [InlineData("""{ "load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true }""")]
    [InlineData("""{ "load_in_8bit": true, "llm_int8_skip_modules": ["lm_head", "down_proj"] }""")]
    public void What_was_stopped_is_saved_as_it_is_and_goes_on_with_the_rest(string fields)
    {
        using var scope = NewDisposeScope();
        var config = QuantizationConfig.FromJson((JsonObject)JsonNode.Parse(fields)!);
        using var model = TinyLlama.Create();
        using var source = new CancellationTokenSource();
        Assert.Throws<OperationCanceledException>(() => model.Quantize(config, (done, _) => CancelAt(source, done, 3), source.Token));
        Assert.Equal(3, model.Base.Descendants().OfType<Linear>().Count(static layer => layer.Weight.Packed is not null));

        using var folder = new TemporaryFolder();
        model.Save(folder["stopped"]);
        using var again = PeftModel.Load(folder["stopped"]);
        var inputs = TinyLlama.Inputs();
        Assert.Equal(0, ModelRun.Logits(model, inputs).sub(ModelRun.Logits(again, inputs)).abs().max().item<float>());

        foreach (var stopped in new[] { model, again })
        {
            Assert.Equal("WeightsPacked", Assert.Throws<PeftException>(() => stopped.Quantize(new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.FP4 })).ErrorId);
            stopped.Quantize(config);
            Assert.Equal(config.ToJson().ToJsonString(), stopped.Config.Document["quantization_config"]!.ToJsonString());
        }

        using var whole = TinyLlama.Create();
        whole.Quantize(config);
        Assert.Equal(0, ModelRun.Logits(model, inputs).sub(ModelRun.Logits(whole, inputs)).abs().max().item<float>());
        Assert.Equal(0, ModelRun.Logits(again, inputs).sub(ModelRun.Logits(whole, inputs)).abs().max().item<float>());
    }

    [Fact]
    public void What_is_quantised_already_is_named_by_its_class_and_form()
    {
        using var model = TinyLlama.Create();
        model.Quantize(Config("null"));
        var error = Assert.Throws<PeftException>(() => model.Quantize(Config("null")));
        Assert.Equal("WeightsPacked", error.ErrorId);
        Assert.Contains("LlamaForCausalLM", error.Message, StringComparison.Ordinal);
        Assert.Contains("nf4", error.Message, StringComparison.Ordinal);
    }

    private static void CancelAt(CancellationTokenSource source, int done, int last)
    {
        if (done == last)
        {
            source.Cancel();
        }
    }

    private static QuantizationConfig Config(string skipped) => QuantizationConfig.FromJson(
        (JsonObject)JsonNode.Parse($$"""{ "load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": {{skipped}} }""")!);
}
