using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class ConvolutionTests
{
    [Fact]
    public void A_convolution_passes_gradients_back_as_autograd_does()
    {
        using var check = new BackwardCheck();
        using var layer = Layer();
        check.Fill(layer.Weight).Data.requires_grad_(true);
        check.Fill(layer.Bias!).Data.requires_grad_(true);
        var x = check.Input(2, 4, 6, 5);
        check.Run(
            context => layer.Forward(x, context),
            (inputs, value) => nn.functional.conv2d(inputs[0], value(layer.Weight), value(layer.Bias!), [2, 2], [1, 1], [1, 1], 2));
    }

    [Theory]
    [InlineData(2, 1, 1, 2)]
    [InlineData(1, 0, 1, 1)]
    [InlineData(1, 2, 2, 1)]
    public void A_frozen_convolution_gives_its_input_the_same_gradient(int stride, int padding, int dilation, int groups)
    {
        using var check = new BackwardCheck();
        using var layer = new Convolution(4, 6, [3, 3], new ConvolutionShape(stride, padding, dilation, groups));
        check.Fill(layer.Weight, isTrained: false);
        check.Fill(layer.Bias!, isTrained: false);
        var x = check.Input(2, 4, 9, 8);
        check.Run(
            context => layer.Forward(x, context),
            (inputs, value) => nn.functional.conv2d(
                inputs[0], value(layer.Weight), value(layer.Bias!), [stride, stride], [padding, padding], [dilation, dilation], groups));
    }

    [Fact]
    public void A_large_image_is_convolved_in_strips_as_it_is_whole()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var check = new BackwardCheck();
        using var layer = new Convolution(64, 2, [3, 3], new ConvolutionShape(Padding: 1));
        using var norm = new GroupNorm(2, 64, 1e-5);
        check.Fill(layer.Weight);
        check.Fill(layer.Bias!);
        check.Fill(norm.Weight);
        check.Fill(norm.Bias);
        var context = new ForwardContext();
        var x = randn(1, 64, 517, 512);
        Assert.True(layer.TakesStrips(517 * 512, x.device_type, context));
        Assert.False(layer.TakesStrips(64 * 64, x.device_type, context));
        Assert.False(layer.TakesStrips(517 * 512, x.device_type, context with { Tape = new Tape() }));
        var expected = nn.functional.conv2d(nn.functional.group_norm(x, 2, norm.Weight.Data, norm.Bias.Data).silu(), layer.Weight.Data, layer.Bias!.Data, [1, 1], [1, 1], [1, 1]);
        TensorAssert.CloseToScale(expected, layer.Forward(norm.Forward(x, context, activates: true), context), 1e-5);
        TensorAssert.CloseToScale(expected, layer.ForwardInStrips(x.shape, norm.Strips(x, context)!, x, context), 1e-5);
    }

    [Fact]
    public void A_convolution_prints_as_PyTorch_prints_it()
    {
        using var layer = Layer();
        using var plain = new Convolution(3, 5, [3], hasBias: false);
        Assert.Equal(("Conv2d", "4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=2"), (layer.ClassName, layer.Details));
        Assert.Equal(("Conv1d", "3, 5, kernel_size=(3,), stride=(1,), bias=False"), (plain.ClassName, plain.Details));
    }

    [Fact]
    public void An_input_of_other_channels_is_refused_by_the_layers_name()
    {
        using var layer = Layer();
        using var x = zeros(1, 3, 4, 4);
        Assert.Equal("ShapeMismatch", Assert.Throws<PeftException>(() => layer.Forward(x, new ForwardContext())).ErrorId);
        Assert.Equal("ModelConfigInvalid", Assert.Throws<PeftException>(() => new Convolution(4, 5, [3, 3], new ConvolutionShape(Groups: 2))).ErrorId);
    }

    private static Convolution Layer() => new(4, 6, [3, 3], new ConvolutionShape(Stride: 2, Padding: 1, Groups: 2));
}
