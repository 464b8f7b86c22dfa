using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>Our own kernels of norms, rotary positions and gated activations beside the plain formulas.</summary>
public sealed class LayerKernelTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(ScalarType.Float32, 1, 1, 1e-6)]
    [InlineData(ScalarType.Float32, 200, 577, 1e-5)]
    [InlineData(ScalarType.BFloat16, 50, 96, 5e-2)]
    public void The_norm_is_the_formula(ScalarType type, int rows, int width, double tolerance)
    {
        var (x, weight) = (randn(rows, width).mul_(3).to(type), randn(width).to(type));
        var wide = x.to(ScalarType.Float64);
        var inverse = wide.square().mean([1], keepdim: true).add_(1e-5).rsqrt_();
        var (found, foundInverse) = NormKernel.RootMeanSquare(x, weight, 1e-5);
        OperatorTests.Close(wide.mul(inverse).mul_(weight.to(ScalarType.Float64)).to(ScalarType.Float32), found.to(ScalarType.Float32), tolerance);

        // By its size, for a row of one small number has a large one.
        OperatorTests.Close(ones_like(inverse).to(ScalarType.Float32), foundInverse.to(ScalarType.Float64).div(inverse).to(ScalarType.Float32), tolerance);
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1, 3, true, 1e-5)]
    [InlineData(ScalarType.Float32, 200, 577, true, 1e-5)]
    [InlineData(ScalarType.Float32, 200, 64, false, 1e-5)]
    [InlineData(ScalarType.BFloat16, 50, 96, true, 5e-2)]
    public void The_layer_norm_and_the_gradient_of_its_input_are_autograds(ScalarType type, int rows, int width, bool hasBias, double tolerance)
    {
        var (x, weight, bias) = (randn(rows, width).mul_(3).add_(1).to(type), randn(width), hasBias ? randn(width) : null);
        var leaf = x.to(ScalarType.Float64).requires_grad_(true);
        var expected = nn.functional.layer_norm(leaf, [width], weight.to(ScalarType.Float64), bias?.to(ScalarType.Float64), 1e-5);
        var gradient = randn(rows, width).to(type);
        expected.backward([gradient.to(ScalarType.Float64)]);
        var (y, normed, inverse) = LayerNormKernel.Form(x, weight, bias, 1e-5, keepsNormed: true);
        OperatorTests.Close(expected.detach().to(ScalarType.Float32), y.to(ScalarType.Float32), tolerance);
        Assert.True(y.eq(LayerNormKernel.Form(x, weight, bias, 1e-5, keepsNormed: false).Result).all().item<bool>());
        OperatorTests.Close(leaf.grad!.to(ScalarType.Float32), LayerNormKernel.Gradient(gradient, normed!, inverse!, weight).to(ScalarType.Float32), tolerance);
    }

    [Theory]
    [InlineData(ScalarType.Float32, 3, 1, 1e-6)]
    [InlineData(ScalarType.Float32, 300, 500, 1e-5)]
    [InlineData(ScalarType.BFloat16, 40, 33, 6e-2)]
    public void The_gate_and_its_gradient_are_autograds(ScalarType type, int rows, int width, double tolerance)
    {
        var projections = randn(rows, 2 * width).to(type);
        var leaf = projections.to(ScalarType.Float32).clone().requires_grad_(true);
        var halves = leaf.chunk(2, 1);
        var expected = halves[0].silu().mul(halves[1]);
        var gradient = randn(rows, width).to(type);
        expected.backward([gradient.to(ScalarType.Float32)]);
        OperatorTests.Close(expected.detach(), GatedKernel.Form(projections).to(ScalarType.Float32), tolerance);
        GatedKernel.Gradient(projections, gradient);
        OperatorTests.Close(leaf.grad!, projections.to(ScalarType.Float32), tolerance);
    }

    [Theory]
    [InlineData(ScalarType.Float32, true, 1e-6)]
    [InlineData(ScalarType.Float32, false, 1e-6)]
    [InlineData(ScalarType.BFloat16, false, 5e-2)]
    public void Rotation_is_the_formula_and_its_transpose(ScalarType type, bool positionsByRow, double tolerance)
    {
        const int Rows = 2, Length = 37, Heads = 3, Size = 24;
        var angles = positionsByRow ? randn([Rows, Length, 1, Size / 2]) : randn([Length, 1, Size / 2]);
        var cosine = cat([angles.cos(), angles.cos()], -1).to(type);
        var sine = cat([angles.sin().neg(), angles.sin()], -1).to(type);
        var all = randn([Rows, Length, Heads + 2, Size]).to(type);
        var heads = all.narrow(2, 1, Heads);
        Assert.True(RotaryKernel.Serves(heads, cosine, sine));
        var (wide, c, s) = (heads.to(ScalarType.Float32), cosine.to(ScalarType.Float32), sine.to(ScalarType.Float32));
        OperatorTests.Close(wide.mul(c).add(wide.roll(Size / 2, -1).mul(s)), RotaryKernel.Rotate(heads, cosine, sine, back: false).to(ScalarType.Float32), tolerance);
        OperatorTests.Close(wide.mul(c).add(wide.mul(s).roll(-Size / 2, -1)), RotaryKernel.Rotate(heads, cosine, sine, back: true).to(ScalarType.Float32), tolerance);
    }

    [Fact]
    public void Large_values_in_float16_have_a_finite_norm()
    {
        var norm = new RmsNorm(8, 1e-5, "Norm");
        norm.Weight.Assign(ones([8], ScalarType.Float16));
        var y = norm.Forward(full([2, 8], 1000, ScalarType.Float16), new ForwardContext { Rows = 1, Length = 2 });
        OperatorTests.Close(ones(2, 8), y.to(ScalarType.Float32), 1e-2);
    }
}
