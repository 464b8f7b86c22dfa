using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>Our own kernels of attention beside the engine's operators.</summary>
public sealed class AttentionKernelTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(ScalarType.Float32, 1, 1, 1e-6)]
    [InlineData(ScalarType.Float32, 17, 17, 1e-6)]
    [InlineData(ScalarType.Float32, 130, 40, 1e-6)]
    [InlineData(ScalarType.BFloat16, 33, 8, 8e-3)]
    [InlineData(ScalarType.BFloat16, 300, 300, 8e-3)]
    public void Softmax_under_a_mask_is_that_of_the_operators(ScalarType type, int keys, int masked, double tolerance)
    {
        const int Rows = 2, Batches = 6, Queries = 5, Heads = 3;
        var scores = randn(Batches, Heads * Queries, keys).mul_(3).to(type);
        foreach (var mask in new[] { null, rand(Queries, masked).gt(0.5), rand([Rows, 1, 1, Queries, masked]).gt(0.3), ones([Rows, 1, 1, Queries, masked], ScalarType.Bool) })
        {
            var expected = AttentionKernels.SoftmaxByOperators(scores.clone(), mask, Queries, Rows);
            OperatorTests.Close(expected.to(ScalarType.Float32), AttentionKernels.Softmax(scores.clone(), mask, Queries, Rows).to(ScalarType.Float32), tolerance);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-6)]
    [InlineData(ScalarType.BFloat16, 2e-2)]
    public void The_gradient_of_softmax_is_autograds(ScalarType type, double tolerance)
    {
        var scores = randn(4, 300, 65).requires_grad_(true);
        var weights = scores.softmax(-1);
        var gradient = randn(4, 300, 65);
        weights.backward([gradient]);
        var found = AttentionKernels.SoftmaxGradient(weights.detach().to(type), gradient.to(type));
        OperatorTests.Close(scores.grad!, found.to(ScalarType.Float32), tolerance);
    }

    [Fact]
    public void What_is_no_number_stays_none()
    {
        var scores = randn(1, 2, 40);
        scores[0, 0, 7] = float.NaN;
        var weights = AttentionKernels.Softmax(scores, null, 2, 1);
        Assert.True(weights[0, 0].isnan().all().item<bool>());
        Assert.False(weights[0, 1].isnan().any().item<bool>());
    }

    [Fact]
    public unsafe void Bfloat16_is_rounded_as_the_engine_rounds()
    {
        var values = cat([randn(1000), tensor(new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity, float.MaxValue, -0f, 1e-40f, 1.00390625f, 1.01171875f })], 0);
        var expected = values.to(ScalarType.BFloat16);
        var found = new ushort[values.NumberOfElements];
        var back = new float[found.Length];
        var floats = values.data<float>().ToArray();
        fixed (float* from = floats, to = back)
        fixed (ushort* bits = found)
        {
            CpuRows.Narrow(from, bits, found.Length);
            CpuRows.Widen(bits, to, found.Length);
        }

        Assert.Equal(expected.to(ScalarType.Float32).data<float>().ToArray(), back);
    }
}
