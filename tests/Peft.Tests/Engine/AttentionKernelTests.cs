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
    [InlineData(ScalarType.Float32, 64, 64, 1e-5)]
    [InlineData(ScalarType.Float32, 7, 130, 1e-5)]
    [InlineData(ScalarType.BFloat16, 64, 72, 1e-2)]
    [InlineData(ScalarType.BFloat16, 5, 19, 1e-2)]
    public void One_query_over_stored_keys_gives_what_the_operators_give(ScalarType type, int size, int valueSize, double tolerance)
    {
        const int Rows = 2, KeyHeads = 3, Group = 2, Stored = 40, First = 4, Count = 29;
        var queries = randn(Rows, 1, KeyHeads * Group, size).mul_(0.3).to(type);

        // Buffers are longer than what is stored in them.
        var keys = randn(Rows * KeyHeads, Stored, size).to(type).narrow(1, 0, First + Count);
        var values = randn(Rows * KeyHeads, Stored, valueSize).to(type).narrow(1, 0, First + Count);
        Assert.True(SingleQueryKernel.Serves(queries, keys, values));
        foreach (var mask in new[] { null, rand(1, 20).gt(0.5), rand([Rows, 1, 1, 1, Count]).gt(0.3) })
        {
            var scores = queries.to(ScalarType.Float32).view(Rows * KeyHeads, Group, size)
                .bmm(keys.to(ScalarType.Float32).narrow(1, First, Count).transpose(1, 2));
            var expected = AttentionKernels.SoftmaxByOperators(scores, mask, 1, Rows).bmm(values.to(ScalarType.Float32).narrow(1, First, Count));
            var found = SingleQueryKernel.Run(queries, keys, values, (First, Count), mask);
            OperatorTests.Close(expected.view(Rows, -1), found.to(ScalarType.Float32), tolerance);
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
