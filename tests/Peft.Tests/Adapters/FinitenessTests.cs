using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
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
