using Peft.Tests.Adapters;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Counts of live tensors, which no other test may change meanwhile.</summary>
[Collection(LiveTensors.Name)]
public class TrainingLiveTensorTests
{
    [Fact]
    public void Nothing_stays_behind_after_200_steps()
    {
        using var model = TrainerTests.Model(dropout: 0.1);
        LiveTensors.Settle();
        var data = new RandomRows(8, TinyLlama.Vocabulary);
        List<long> live = [];
        data.Before = batch =>
        {
            if (batch % 2 == 0)
            {
                live.Add(Tensor.TotalCount);
            }
        };
        new Trainer(TrainerTests.Request(model, new TrainingOptions { MaxSteps = 200, BatchSize = 2, GradientAccumulation = 2 }, data)).Train();
        Assert.Equal(200, live.Count);
        Assert.Equal(live[5], live[^1]);
    }
}
