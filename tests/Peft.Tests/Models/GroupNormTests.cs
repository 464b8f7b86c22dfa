using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>The norm of groups of channels beside the engine's, forward and backward.</summary>
public class GroupNormTests
{
    [Theory]
    [InlineData(true, true, ScalarType.Float32, 2e-5)]
    [InlineData(false, true, ScalarType.Float32, 2e-5)]
    [InlineData(true, false, ScalarType.Float32, 2e-5)]
    [InlineData(true, true, ScalarType.BFloat16, 5e-2)]
    public void The_norm_and_its_gradients_are_autograds(bool activates, bool isTrained, ScalarType type, double tolerance)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        using var layer = new GroupNorm(3, 6, 1e-5);
        check.Fill(layer.Weight, isTrained, ScalarType.Float32);
        check.Fill(layer.Bias, isTrained, ScalarType.Float32);

        // More positions than the kernel takes at once.
        var x = check.Input(2, 6, 50, 47);
        check.Run(
            context => layer.Forward(x, context, activates),
            (inputs, value) =>
            {
                var normed = nn.functional.group_norm(inputs[0], 3, value(layer.Weight), value(layer.Bias), 1e-5);
                return activates ? normed.silu() : normed;
            });
    }

    [Fact]
    public void An_image_whose_channels_lie_side_by_side_is_normed_by_the_engine()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var layer = new GroupNorm(2, 4, 1e-5);
        layer.Weight.Assign(rand(4));
        layer.Bias.Assign(rand(4));
        var x = randn(2, 5, 3, 4);
        var expected = layer.Forward(x.permute(0, 3, 1, 2).contiguous(), new(), activates: true);
        TensorAssert.CloseToScale(expected, layer.Forward(x.permute(0, 3, 1, 2), new(), activates: true), 1e-5);
    }
}
