using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>What a training step leaves behind; alone, for the count is the process's.</summary>
[Collection(LiveTensors.Name)]
public class StepLifetimeTests
{
    [Fact]
    public void AStepLeavesNoTensorBehind() => AssertNothingStays(static (model, ids) =>
    {
        using var tape = new Tape();
        var context = new ForwardContext { Tape = tape, IsTraining = true };
        tape.Backward(model.Loss(model.Forward(ids, context), ids, null, context));
    });

    [Fact]
    public void AStepCancelledWhileABlockRunsAgainLeavesNoTensorBehind() => AssertNothingStays(static (model, ids) =>
    {
        using var source = new CancellationTokenSource();
        using var tape = new Tape();
        var context = new ForwardContext { Tape = tape, IsTraining = true, Checkpointing = true, Cancellation = source.Token };
        var hidden = model.Forward(ids, context);
        source.Cancel();
        Assert.Throws<OperationCanceledException>(() => tape.Backward(model.Loss(hidden, ids, null, context)));
    });

    private static void AssertNothingStays(Action<CausalModel, Tensor> step)
    {
        using var noGrad = no_grad();
        using var model = (CausalModel)ModelLoader.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        var trained = model.FindParameter("model.layers.2.self_attn.q_proj.weight")!;
        using var gradient = zeros([.. trained.Shape]).DetachFromDisposeScope();
        trained.Gradient = gradient;
        Step();
        LiveTensors.Settle();
        var before = Tensor.TotalCount;
        Step();
        Assert.Equal(before, Tensor.TotalCount);

        void Step()
        {
            using var scope = NewDisposeScope();
            step(model, randint(5, 4000, [2, 40], ScalarType.Int64));
        }
    }
}
