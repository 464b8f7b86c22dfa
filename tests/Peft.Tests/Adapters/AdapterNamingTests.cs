using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>An adapter of a language model fits the same model among others' parts, and the other way round.</summary>
public class AdapterNamingTests
{
    private const string Text = """
        "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64
        """;

    private const string Alone = """{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "tie_word_embeddings": false, """ + Text + "}";

    private const string Inside = """
        {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], "tie_word_embeddings": false, "text_config": {"model_type": "mistral",
        """ + Text + "}}";

    [Theory]
    [InlineData(Alone, Inside)]
    [InlineData(Inside, Alone)]
    public void An_adapter_is_attached_whatever_the_place_of_the_language_model(string from, string to)
    {
        using var folder = new TemporaryFolder();
        using var one = Create(from);
        one.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") }, "a", 1).Perturb(2);
        using var expected = ModelRun.Logits(one, TinyLlama.Inputs());
        one.SaveAdapter("a", folder.Path);

        using var other = Create(to);
        var loaded = other.LoadAdapter(folder.Path, "b");
        using var actual = ModelRun.Logits(other, TinyLlama.Inputs());
        Assert.Empty(loaded.Report.Missing);
        Assert.Empty(loaded.Report.Unexpected);
        Assert.True(expected.sub(actual).abs().max().item<float>() < 1e-5);
    }

    private static PeftModel Create(string config)
    {
        var model = ArchitectureRegistry.Create(ModelConfig.FromText(config));
        using var noGradients = no_grad();
        using var generator = new Generator(1);
        foreach (var (_, parameter, _) in model.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            parameter.Assign(empty([.. parameter.Shape]).normal_(0, 0.3, generator));
        }

        model.Prepare();
        return new PeftModel(model, "naming");
    }
}
