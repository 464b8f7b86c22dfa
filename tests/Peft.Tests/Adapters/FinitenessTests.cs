using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class FinitenessTests
{
    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void AWeightThatIsNoNumberIsNamed(float bad)
    {
        using var model = TinyLlama.Create();
        Assert.Null(model.NonFiniteWarning());
        var (path, parameter, _) = model.Base.NamedParameters().First();
        parameter.Data[0, 0] = tensor(bad);
        Assert.Contains(path, model.NonFiniteWarning(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_number_that_is_none_is_found_at_the_end_of_a_large_table()
    {
        const int Vocabulary = 600_001;
        using var model = new PeftModel(
            ArchitectureRegistry.Create(ModelConfig.FromText($$"""{ "model_type": "llama", "vocab_size": {{Vocabulary}}, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 0, "num_attention_heads": 2 }""")),
            "large");
        var (path, parameter, _) = model.Base.NamedParameters().First();
        parameter.Assign(zeros([Vocabulary, 16], ScalarType.BFloat16));
        Assert.Null(model.NonFiniteWarning());
        parameter.Data[Vocabulary - 1, 15] = tensor(float.NegativeInfinity);
        Assert.Contains(path, model.NonFiniteWarning(), StringComparison.Ordinal);
    }

    [Fact]
    public void LargeNumbersAreNumbers()
    {
        using var model = TinyLlama.Create();
        model.Base.NamedParameters().First().Parameter.Data.fill_(3e38f);
        Assert.Null(model.NonFiniteWarning());
    }

    [Fact]
    public void AnAdaptersWeightsAreLookedAtAsWell()
    {
        using var model = TinyLlama.Create();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj") }, "a", 1);
        adapter.TrainableParameters[0].Parameter.Data[0, 0] = tensor(float.NaN);
        Assert.Contains("a: ", model.NonFiniteWarning(), StringComparison.Ordinal);
    }
}
