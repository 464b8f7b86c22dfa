using Peft.Tests.Adapters;
using Peft.Tests.Engine;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

public sealed class LossScaleTests
{
    [Fact]
    public void Gradients_that_are_too_large_ask_for_another_pass_with_half_the_factor()
    {
        using var scope = NewDisposeScope();
        var scale = new LossScale(ScalarType.Float16);
        var first = scale.Value;
        Assert.True(first > 1);
        Assert.Equal(first, scale.Gradient(zeros([]))!.item<float>());
        Assert.False(scale.Takes(tensor(new[] { 1f, float.PositiveInfinity })));
        Assert.Equal(first / 2, scale.Value);
        var gradients = tensor(new[] { 3f, (float)first });
        Assert.True(scale.Takes(gradients));
        Assert.Equal([3f / (float)(first / 2), 2f], gradients.data<float>().ToArray());
    }

    [Fact]
    public void Numbers_that_no_factor_makes_finite_end_the_search()
    {
        using var scope = NewDisposeScope();
        var scale = new LossScale(ScalarType.Float16);
        var passes = 1;
        while (!scale.Takes(tensor(new[] { float.NaN })))
        {
            passes++;
        }

        Assert.InRange(passes, 2, 20);
        Assert.Equal(1, new LossScale(ScalarType.BFloat16).Value);
        Assert.Null(new LossScale(ScalarType.Float32).Gradient(zeros([])));
    }

    [SkippableFact]
    public void A_training_in_float16_goes_as_one_in_float32()
    {
        Skip.If(EngineFacts.IsSystemLibtorch, "this libtorch has no products in float16 on the CPU");
        Assert.All(Losses(ScalarType.Float16).Zip(Losses(ScalarType.Float32)), static pair => Assert.InRange(pair.First, pair.Second - 0.02, pair.Second + 0.02));
    }

    private static IReadOnlyList<double> Losses(ScalarType type)
    {
        using var model = TrainerTests.Model(type: type);
        return new Trainer(TrainerTests.Request(model, new TrainingOptions { LearningRate = 1e-2, MaxSteps = 5, BatchSize = 4, GradientAccumulation = 2 })).Train().Losses;
    }
}
