using Peft.Models;
using Peft.Training;
using Peft.Training.Optimizers;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

public class OptimizerTests
{
    [Fact]
    public void Parameters_become_views_of_one_buffer_and_get_tensors_of_their_own_back()
    {
        var (first, second) = (Made("a", [2, 3], 1), Made("b", [4], 2));
        using (var optimizer = OptimizerRegistry.Create([Trained(first), Trained(second)], new TrainingOptions()))
        {
            Assert.Equal(10, optimizer.Parameters.Count);
            optimizer.Parameters.Values.fill_(5);
            Assert.Equal(5f, first.Data[1, 2].item<float>());
            Assert.True(first.IsTrained && second.Data.requires_grad);
        }

        Assert.False(first.IsTrained);
        Assert.False(first.Data.requires_grad);
        Assert.Equal([5f, 5f, 5f, 5f], second.Data.data<float>().ToArray());
    }

    [Fact]
    public void AdamW_moves_by_the_rate_against_the_gradients_sign_in_its_first_step()
    {
        var parameter = Made("weight", [3], 1);
        using var optimizer = OptimizerRegistry.Create([Trained(parameter)], new TrainingOptions { LearningRate = 0.1 });
        parameter.Gradient!.copy_(tensor(new float[] { 4, -4, 0 }));
        optimizer.Step(0.5);
        var moved = parameter.Data.data<float>().ToArray();
        Assert.Equal(0.95f, moved[0], 5);
        Assert.Equal(1.05f, moved[1], 5);
        Assert.Equal(1f, moved[2], 5);
    }

    [Theory]
    [InlineData("adamw_torch")]
    [InlineData("adafactor")]
    public void An_optimiser_made_for_other_parameters_goes_on_with_those_that_stayed(string name)
    {
        var options = new TrainingOptions { Optimizer = name, LearningRate = 0.1 };
        var (whole, first, second) = (Made("whole", [2, 3], 1), Made("first", [4], 2), Made("second", [2, 3], 1));
        using var undisturbed = OptimizerRegistry.Create([Trained(whole)], options);
        Step(undisturbed, whole, 1);
        Step(undisturbed, whole, 2);

        using var before = OptimizerRegistry.Create([Trained(first), new TrainedParameter("whole", second)], options);
        Step(before, second, 1);
        before.ReleaseParameters();
        Assert.False(first.IsTrained);
        using var after = OptimizerRegistry.Create([new TrainedParameter("whole", second)], options);
        after.TakeOver(before);
        Step(after, second, 2);
        Assert.Equal(2, after.StepCount);
        Assert.Equal(whole.Data.data<float>().ToArray(), second.Data.data<float>().ToArray());

        static void Step(Optimizer optimizer, Parameter parameter, float size)
        {
            optimizer.Parameters.Gradients.zero_();
            parameter.Gradient!.copy_(arange(6, ScalarType.Float32).sub(2).mul(size).view(2, 3));
            optimizer.Step(1);
        }
    }

    [Theory]
    [InlineData("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", true)]
    [InlineData("base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias", false)]
    [InlineData("base_model.model.model.norm.weight", false)]
    [InlineData("base_model.model.model.layers.0.input_layernorm.weight", false)]
    [InlineData("base_model.model.model.layers.0.self_attn.q_norm.weight", false)]
    [InlineData("base_model.model.normaliser.weight", true)]
    public void Decay_spares_biases_and_norms_by_name(string name, bool decayed)
    {
        var parameter = Made("weight", [2], 1);
        using var optimizer = OptimizerRegistry.Create(
            [new TrainedParameter(name, parameter)], new TrainingOptions { LearningRate = 0.1, WeightDecay = 0.5 });
        optimizer.Step(1);
        Assert.Equal(decayed ? 0.95f : 1f, parameter.Data[0].item<float>(), 5);
    }

    [Fact]
    public void An_unknown_optimiser_is_named() => Assert.Contains(
        "adamwhatever",
        Assert.Throws<NotSupportedByPeftException>(() => new TrainingOptions { Optimizer = "adamwhatever" }.Validate()).Message,
        StringComparison.Ordinal);

    private static TrainedParameter Trained(Parameter parameter) => new(parameter.Name, parameter);

    private static Parameter Made(string name, long[] shape, float value)
    {
        var parameter = new Parameter(name, shape);
        parameter.Assign(full(shape, value));
        return parameter;
    }
}
