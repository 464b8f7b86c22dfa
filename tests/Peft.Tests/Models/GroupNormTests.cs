using Peft.Diffusion.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>The norm of groups of channels beside the engine's, forward and backward.</summary>
public class GroupNormTests
{
    [Theory]
    [InlineData(true, true, ScalarType.Float32, false, 2e-5)]
    [InlineData(false, true, ScalarType.Float32, false, 2e-5)]
    [InlineData(true, false, ScalarType.Float32, false, 2e-5)]
    [InlineData(true, true, ScalarType.BFloat16, false, 5e-2)]
    [InlineData(true, true, ScalarType.Float32, true, 2e-5)]
    [InlineData(false, true, ScalarType.Float32, true, 2e-5)]
    [InlineData(true, false, ScalarType.Float32, true, 2e-5)]
    [InlineData(true, true, ScalarType.BFloat16, true, 5e-2)]
    public void The_norm_and_its_gradients_are_autograds(bool activates, bool isTrained, ScalarType type, bool byPosition, double tolerance)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        using var layer = new GroupNorm(3, 6, 1e-5);
        check.Fill(layer.Weight, isTrained, ScalarType.Float32);
        check.Fill(layer.Bias, isTrained, ScalarType.Float32);

        // More positions than the kernels take at once.
        var x = check.Input(2, 6, 90, 47);
        check.Run(
            context => layer.Forward(byPosition ? Pixels.ByPosition(x, context) : x, context, activates),
            (inputs, value) =>
            {
                var normed = nn.functional.group_norm(inputs[0], 3, value(layer.Weight), value(layer.Bias), 1e-5);
                return activates ? normed.silu() : normed;
            });
    }

    [Theory]
    [InlineData(0, 3, 1, 2)]
    [InlineData(0, 2, 3, 1)]
    public void An_image_in_any_order_of_memory_is_normed_alike(params int[] order)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var layer = new GroupNorm(2, 4, 1e-5);
        layer.Weight.Assign(rand(4));
        layer.Bias.Assign(rand(4));
        var x = randn(2, 4, 4, 4).permute([.. order.Select(static place => (long)place)]);
        var expected = layer.Forward(x.contiguous(), new(), activates: true);
        TensorAssert.CloseToScale(expected, layer.Forward(x, new(), activates: true), 1e-5);
    }

    [Fact]
    public void Lines_of_an_image_that_lies_position_by_position_are_those_of_the_whole()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var layer = new GroupNorm(2, 4, 1e-5);
        layer.Weight.Assign(rand(4));
        layer.Bias.Assign(rand(4));
        var x = Pixels.ByPosition(randn(2, 4, 6, 5), new());
        var whole = layer.Forward(x, new(), activates: true);
        TensorAssert.CloseToScale(whole.narrow(2, 1, 3), layer.Strips(x, new())!(1, 3), 0);
    }
}
