using TorchSharp;
using static TorchSharp.torch;


namespace Peft.Tests.Engine;

/// <summary>Gradients against finite differences, and the switches that turn recording on and off.</summary>
public sealed class AutogradTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    public static TheoryData<string> Formulas => new("matmul", "softmax", "norm", "gate", "attention", "entropy", "index");

    [Theory]
    [MemberData(nameof(Formulas))]
    public void Gradients_agree_with_finite_differences(string formula)
    {
        manual_seed(1);
        var weight = randn(4, 4, ScalarType.Float64);
        Func<Tensor, Tensor> f = formula switch
        {
            "matmul" => x => x.matmul(weight).square().sum(),
            "softmax" => x => x.softmax(-1).mul(weight).sum(),
            "norm" => x => (x * x.square().mean([-1], keepdim: true).add(1e-5).rsqrt() * weight).sum(),
            "gate" => x => (nn.functional.silu(x) * x.matmul(weight)).sum(),
            "attention" => x => nn.functional.scaled_dot_product_attention(x, x.matmul(weight), x).square().sum(),
            "entropy" => x => nn.functional.cross_entropy(x.matmul(weight), tensor(new long[] { 0, 3, -100, 1 })),
            _ => x => x[tensor(new long[] { 2, 2, 0 })].square().sum() + x.narrow(1, 1, 2).exp().sum(),
        };

        var x = randn(4, 4, ScalarType.Float64, requires_grad: true);
        var gradient = autograd.grad([f(x)], [x])[0];
        var point = x.detach();
        const double step = 1e-5;
        for (long i = 0; i < 4; i++)
        {
            for (long j = 0; j < 4; j++)
            {
                var shift = zeros(4, 4, ScalarType.Float64);
                shift[i, j] = tensor(step);
                var slope = (f(point + shift) - f(point - shift)).ToDouble() / (2 * step);
                Assert.Equal(slope, gradient[i, j].ToDouble(), 6);
            }
        }
    }

    [Fact]
    public void Backward_adds_into_grad()
    {
        var x = ones(2, requires_grad: true);
        Assert.Null(x.grad);
        (x * 3).sum().backward();
        (x * 3).sum().backward();
        OperatorTests.Same([6, 6], x.grad!);
        x.grad = null;
        Assert.Null(x.grad);
        var y = x * 2;
        y.backward([tensor(new float[] { 1, 10 })]);
        OperatorTests.Same([2, 20], x.grad!);
    }

    [Fact]
    public void Gradients_are_taken_for_the_inputs_asked_and_weighted()
    {
        var x = tensor(new float[] { 1, 2 }, requires_grad: true);
        var w = tensor(new float[] { 3, 4 }, requires_grad: true);
        var unused = ones(1, requires_grad: true);
        var gradients = autograd.grad([x * w], [w, unused], [tensor(new float[] { 1, 0.5f })], allow_unused: true);
        OperatorTests.Same([1, 1], gradients[0]);
        Assert.True(gradients[1].IsInvalid);
        Assert.Null(x.grad);
    }

    [Fact]
    public void A_graph_is_kept_only_when_asked()
    {
        var x = ones(2, requires_grad: true);
        var y = x.square().sum();
        autograd.grad([y], [x], retain_graph: true);
        autograd.grad([y], [x]);
        var error = Assert.ThrowsAny<Exception>(() => y.backward());
        Assert.Contains("second time", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Second_derivatives()
    {
        var x = tensor(new float[] { 2 }, requires_grad: true);
        var first = autograd.grad([x.pow(3).sum()], [x], create_graph: true)[0];
        OperatorTests.Same([12], autograd.grad([first.sum()], [x])[0]);
    }

    [Fact]
    public void Switches_nest_and_end_with_their_scope()
    {
        var x = ones(2, requires_grad: true);
        using (no_grad())
        {
            Assert.False(is_grad_enabled());
            Assert.False((x * 2).requires_grad);
            using (enable_grad())
            {
                Assert.True((x * 2).requires_grad);
            }

            Assert.False(is_grad_enabled());
        }

        Assert.True(is_grad_enabled());
        using (inference_mode())
        {
            Assert.True(is_inference_mode_enabled());
            Assert.False((x * 2).requires_grad);
        }

        Assert.False(is_inference_mode_enabled());
        Assert.True((x * 2).requires_grad);
    }

    [Fact]
    public void A_switch_belongs_to_its_thread()
    {
        using (no_grad())
        {
            var elsewhere = false;
            var thread = new Thread(() => elsewhere = is_grad_enabled());
            thread.Start();
            thread.Join();
            Assert.True(elsewhere);
        }
    }

    [Fact]
    public void Detached_tensors_and_leaves()
    {
        var x = ones(2, requires_grad: true);
        var y = x * 2;
        Assert.True(x.is_leaf);
        Assert.False(y.is_leaf);
        Assert.False(y.detach().requires_grad);
        y.retain_grad();
        y.sum().backward();
        OperatorTests.Same([1, 1], y.grad!);
    }
}
