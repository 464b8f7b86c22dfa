using Peft.Diffusion.Models;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Layers of a UNet that know their own backward pass, beside autograd over the plain formula.</summary>
public class UNetLayerTests
{
    private const int Width = 8;

    [Theory]
    [InlineData(3, false)]
    [InlineData(700, false)]
    [InlineData(700, true)]
    public void The_MLP_is_the_same_in_slices_and_with_an_adapter_on_it(int rows, bool hasAdapter)
    {
        using var check = new BackwardCheck();
        using var layer = new UNetFeedForward(Width);
        var linears = layer.Descendants().OfType<Linear>().ToArray();
        foreach (var linear in linears)
        {
            check.Fill(linear.Weight, isTrained: false);
            check.Fill(linear.Bias!, isTrained: false);
        }

        var change = new LowRank(new Parameter("a", [2, Width]), new Parameter("b", [8 * Width, 2]), null, 0.7, 0);
        if (hasAdapter)
        {
            check.Fill(change.A);
            check.Fill(change.B);
            linears[0].Weight.Slot = new FixedSlot(change);
        }

        var (x, residual) = (check.Input(rows, Width), check.Input(rows, Width));
        check.Run(
            context => layer.Forward(x, residual, context),
            (inputs, value) =>
            {
                var projections = nn.functional.linear(inputs[0], value(linears[0].Weight), value(linears[0].Bias!));
                projections = hasAdapter ? projections.add(inputs[0].mm(value(change.A).t()).mm(value(change.B).t()).mul(0.7)) : projections;
                var halves = projections.chunk(2, 1);
                return nn.functional.linear(halves[0].mul(halves[1].gelu()), value(linears[1].Weight), value(linears[1].Bias!)).add(inputs[1]);
            });
    }

    [Theory]
    [InlineData(8, 6)]
    [InlineData(7, 5)]
    public void An_image_is_made_larger_as_the_engine_does(int height, int width)
    {
        using var check = new BackwardCheck();
        var x = check.Input(2, 3, 4, 3);
        check.Run(context => Pixels.Enlarge(x, height, width, context), (inputs, _) => nn.functional.interpolate(inputs[0], [height, width]));
    }

    [Theory]
    [InlineData(0, 8)]
    [InlineData(3, 4)]
    [InlineData(2, 5)]
    public void Lines_of_a_larger_image_are_those_of_the_whole(int top, int count)
    {
        using var scope = NewDisposeScope();
        var x = randn(2, 3, 4, 3);
        var whole = nn.functional.interpolate(x, [8, 6]);
        TensorAssert.CloseToScale(whole.narrow(2, top, count), Pixels.EnlargedLines(x, top, count), 0);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Channels_get_a_value_and_positions_become_rows_and_an_image_again(bool byPosition)
    {
        using var check = new BackwardCheck();
        var (x, values) = (check.Input(2, 3, 4, 5), check.Input(2, 3));
        check.Run(
            context =>
            {
                var given = byPosition ? Pixels.ByPosition(x, context) : x;
                var image = Pixels.FromPositions(Pixels.ToPositions(Pixels.AddToChannels(given, values, context), context), given, context);
                Assert.Equal(byPosition, ImageLayout.IsByPosition(image));
                return Pixels.ByChannel(Pixels.Enlarge(image, 8, 10, context), context);
            },
            (inputs, _) => nn.functional.interpolate(inputs[0].add(inputs[1].unsqueeze(-1).unsqueeze(-1)), [8, 10]));
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 1)]
    [InlineData(1, 2)]
    public void A_resnet_is_the_same_in_either_order_of_memory_and_what_branches_off_keeps_its_gradient(int stride, int groups)
    {
        using var check = new BackwardCheck { Tolerance = 2e-5 };
        using var norm = new GroupNorm(2, Width, 1e-5);
        using var convolution = new Convolution(Width, Width, [3, 3], new ConvolutionShape(stride, 1, 1, groups)) { IsByPosition = true };
        foreach (var parameter in new[] { norm.Weight, norm.Bias, convolution.Weight, convolution.Bias! })
        {
            check.Fill(parameter, isTrained: false);
        }

        convolution.Arrange();
        Assert.True(ImageLayout.IsByPosition(convolution.Weight.Data));
        var x = check.Input(2, Width, 6, 5);
        check.Run(
            context =>
            {
                // The image goes on beside the convolution, as rows of positions and as it is.
                var image = Pixels.ByPosition(x, context);
                var rows = Pixels.FromPositions(Pixels.ToPositions(image, context), image, context);
                var sum = ResidualSum.Forward(ResidualSum.Forward(image, rows, context), image, context);
                var y = ResnetBlock2D.Convolved(norm, null, convolution, sum, context);
                return Pixels.ByChannel(y, context);
            },
            (inputs, value) =>
            {
                var normed = nn.functional.group_norm(inputs[0].mul(3), 2, value(norm.Weight), value(norm.Bias), 1e-5).silu();
                return nn.functional.conv2d(normed, value(convolution.Weight), value(convolution.Bias!), [stride, stride], [1, 1], [1, 1], groups);
            });
    }
}
