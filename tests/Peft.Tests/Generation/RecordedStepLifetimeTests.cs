using Peft.Models.Heads;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Generation;

/// <summary>What recorded steps leave behind.</summary>
[Collection(LiveTensors.Name)]
public class RecordedStepLifetimeTests
{
    [Fact]
    public void Nothing_stays_when_the_cache_is_gone()
    {
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        Continue(4);
        LiveTensors.Settle();
        var before = Tensor.TotalCount;
        Continue(8);
        Assert.Equal(before, Tensor.TotalCount);

        void Continue(int tokens)
        {
            using var scope = NewDisposeScope();
            Assert.True(RecordedStepTests.Continue((CausalModel)model.Base, RecordedStepTests.Prompt(), tokens, isOff: false).Replays > 0);
        }
    }
}
