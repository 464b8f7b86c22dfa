using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class InputObserverTests
{
    [Fact]
    public void It_sees_the_input_of_every_adaptable_layer_once()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var tiny = TinyLlama.Create();
        var model = (CausalModel)tiny.Base;
        var ids = TinyLlama.Inputs()["input_ids"];
        List<string> seen = [];
        var context = new ForwardContext { Rows = ids.shape[0], Length = ids.shape[1], InputObserver = (module, _) => seen.Add(module.Path) };
        model.Loss(model.Forward(ids, context), ids, null, context);
        Assert.Equal(model.Descendants().Where(static module => module is Linear or Embedding).Select(static module => module.Path).Order(StringComparer.Ordinal), seen.Order(StringComparer.Ordinal));
    }
}
