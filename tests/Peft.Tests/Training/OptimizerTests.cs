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

    /// <summary>The published recurrence, in float64, with gradients of a quadratic: x is what is evaluated, y where gradients are taken.</summary>
    [Fact]
    public void Schedule_free_AdamW_follows_its_formula_and_evaluates_the_mean()
    {
        const double Rate = 0.05, Beta1 = 0.9, Beta2 = 0.99, Epsilon = 1e-8, Decay = 0.1;
        double[] x = [1, -2, 3], y = [.. x], z = [.. x], squares = new double[3];
        double[] factors = [0.5, 1, 1, 0.4, 0.2];
        var (highest, total) = (0.0, 0.0);
        var parameter = Made("weight", [3], 1);
        parameter.Data.copy_(tensor(new float[] { 1, -2, 3 }));
        var options = new TrainingOptions { Optimizer = "schedule_free_adamw", LearningRate = Rate, WeightDecay = Decay, Beta2 = Beta2 };
        using var optimizer = OptimizerRegistry.Create([Trained(parameter)], options);
        for (var k = 0; k < factors.Length; k++)
        {
            using (no_grad())
            {
                parameter.Gradient!.copy_(parameter.Data.mul(2));
            }

            optimizer.Step(factors[k]);

            highest = Math.Max(highest, Rate * factors[k]);
            total += highest * highest;
            var share = highest * highest / total;
            for (var i = 0; i < 3; i++)
            {
                var gradient = 2 * y[i];
                squares[i] = (Beta2 * squares[i]) + ((1 - Beta2) * gradient * gradient);
                var step = (gradient / (Math.Sqrt(squares[i] / (1 - Math.Pow(Beta2, k + 1))) + Epsilon)) + (Decay * y[i]);
                z[i] -= highest * step;
                x[i] = ((1 - share) * x[i]) + (share * z[i]);
                y[i] = ((1 - Beta1) * z[i]) + (Beta1 * x[i]);
            }

            Compare(y);
        }

        var before = parameter.Data.data<float>().ToArray();
        using (optimizer.Evaluating())
        {
            Compare(x);
        }

        Assert.Equal(before, parameter.Data.data<float>().ToArray());
        optimizer.Finish();
        Compare(x);

        void Compare(double[] expected) =>
            Assert.All(expected.Zip(parameter.Data.data<float>().ToArray()), static pair => Assert.Equal(pair.First, pair.Second, 2e-6));
    }

    [Theory]
    [InlineData("adamw_torch")]
    [InlineData("schedule_free_adamw")]
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
