using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class ModelCacheTests
{
    [Fact]
    public void What_was_forgotten_can_be_given_again_and_rows_chosen()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var tiny = TinyLlama.Create();
        var model = (CausalModel)tiny.Base;
        var ids = TinyLlama.Inputs()["input_ids"];
        var whole = model.Forward(ids, new ForwardContext()).LastPosition();
        using var cache = new ModelCache();
        var context = new ForwardContext { Cache = cache };
        model.Forward(cat([ids.narrow(1, 0, 3), ids.narrow(1, 0, 3)], 1), context);
        Assert.True(cache.Rewind(3));
        Assert.Equal(3, cache.Length);
        cache.SelectRows(tensor(new long[] { 1, 0 }));
        var output = model.Forward(ids.narrow(1, 3, 3).index_select(0, tensor(new long[] { 1, 0 })), context);
        TensorAssert.CloseToScale(whole.index_select(0, tensor(new long[] { 1, 0 })), output.LastPosition(), 1e-5, "hidden states");
    }

    [Fact]
    public void A_state_that_cannot_go_back_is_forgotten()
    {
        using var cache = new ModelCache();
        cache.State<TensorState>(0).Replace(zeros(2, 3));
        cache.Advance(5);
        Assert.False(cache.Rewind(4));
        Assert.Equal(0, cache.Length);
        Assert.Empty(cache.State<TensorState>(0).Values);
    }
}
