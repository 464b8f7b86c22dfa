using Peft.Engine;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>Products with bfloat16 weights, formed in float32 in pieces.</summary>
public sealed class FloatProductTests
{
    [Theory]
    [InlineData(false, false, 40)]
    [InlineData(true, false, 40)]
    [InlineData(false, true, 40)]
    [InlineData(true, true, 700)]
    public void They_are_those_of_float32_rounded_once(bool hasBias, bool hasResidual, long width)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);

        // Wide enough for several pieces where the width is large.
        var (rows, outputs) = (5L, width < 100 ? 24L : 13_000L);
        var (x, weight) = (Values(rows, width), Values(outputs, width));
        var (bias, residual) = (hasBias ? Values(outputs) : null, hasResidual ? Values(rows, outputs) : null);

        var y = FloatProducts.Product(x, weight, bias, residual);
        var exact = x.@double().mm(weight.@double().t()) + (bias?.@double() ?? 0) + (residual?.@double() ?? 0);
        AssertRounded(exact, y);
        var g = Values(rows, outputs);
        AssertRounded(g.@double().mm(weight.@double()), FloatProducts.InputGradient(g, weight));

        Tensor Values(params long[] shape) => empty(shape).normal_(0, 1, generator).to(ScalarType.BFloat16);

        static void AssertRounded(Tensor exact, Tensor found)
        {
            Assert.Equal(ScalarType.BFloat16, found.dtype);
            var allowed = exact.abs().mul(1.0 / 256).add(2e-3);
            Assert.True(found.@double().sub(exact).abs().le(allowed).all().item<bool>());
        }
    }
}
