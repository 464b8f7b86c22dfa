using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>The fused cross-entropy beside autograd's.</summary>
public sealed class CrossEntropyKernelTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(ScalarType.Float32, 1, 1, 0, 2e-6)]
    [InlineData(ScalarType.Float32, 5, 37, 0, 2e-6)]
    [InlineData(ScalarType.Float32, 300, 1000, 0.1, 2e-6)]
    [InlineData(ScalarType.BFloat16, 7, 130, 0, 4e-3)]
    [InlineData(ScalarType.BFloat16, 64, 333, 0.3, 4e-3)]
    public void Losses_and_gradients_are_those_of_autograd(ScalarType type, int rows, int vocabulary, double smoothing, double tolerance)
    {
        foreach (var scale in new[] { 1, 0.25 })
        {
            var logits = randn(rows, vocabulary).mul_(4).to(type);
            var targets = randint(0, vocabulary, [rows]);
            var plain = logits.to(ScalarType.Float32).requires_grad_(true);
            var expected = nn.functional.cross_entropy(plain.mul(scale), targets, reduction: nn.Reduction.None, label_smoothing: smoothing);
            expected.sum().backward();

            var losses = empty(rows);
            var untouched = logits.clone();
            CrossEntropyKernel.Form(logits, targets, losses, scale, smoothing, wantsGradient: false);
            Assert.True(logits.eq(untouched).all().item<bool>());
            OperatorTests.Close(expected.detach(), losses, 2e-5);

            losses.zero_();
            CrossEntropyKernel.Form(logits, targets, losses, scale, smoothing, wantsGradient: true);
            OperatorTests.Close(expected.detach(), losses, 2e-5);
            OperatorTests.Close(plain.grad!, logits.to(ScalarType.Float32), tolerance);
        }
    }

    [Fact]
    public void A_row_with_what_is_no_number_has_no_loss()
    {
        var logits = randn(2, 40);
        logits[0, 7] = float.NaN;
        var losses = empty(2);
        CrossEntropyKernel.Form(logits, tensor([1L, 2L]), losses, 1, 0, wantsGradient: true);
        Assert.Equal([true, false], losses.isnan().data<bool>().ToArray());
    }
}
