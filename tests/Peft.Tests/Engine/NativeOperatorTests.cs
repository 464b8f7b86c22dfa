using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>Operators beyond TorchSharp's wrappers beside their plain formulas.</summary>
public sealed class NativeOperatorTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(6, 2, 9, 9, true)]
    [InlineData(4, 4, 5, 11, false)]
    [InlineData(4, 1, 1, 7, false)]
    public void Grouped_attention_and_its_gradients_are_the_formulas(long heads, long groups, long queries, long keys, bool causal)
    {
        var inputs = new[] { randn([2, heads, queries, 8]), randn([2, groups, keys, 8]), randn([2, groups, keys, 8]) };
        var weight = randn([2, heads, queries, 8]);
        var expected = Gradients(inputs, weight, (q, k, v) => Operators.GroupedAttentionByFormula(q, k, v, causal, 0.3));
        var found = Gradients(inputs, weight, (q, k, v) => Operators.GroupedAttention(q, k, v, causal, 0.3));
        for (var i = 0; i < expected.Length; i++)
        {
            OperatorTests.Close(expected[i], found[i], 1e-5);
        }
    }

    [SkippableFact]
    public void NuGets_engine_reaches_its_own_operators()
    {
        Skip.If(EngineFacts.IsSystemLibtorch, "SystemLibtorch takes the formulas.");
        Assert.True(Operators.AreNative);
    }

    private static Tensor[] Gradients(Tensor[] inputs, Tensor weight, Func<Tensor, Tensor, Tensor, Tensor> function)
    {
        using var grad = enable_grad();
        var leaves = inputs.Select(static input => input.detach().clone().requires_grad_(true)).ToArray();
        var output = function(leaves[0], leaves[1], leaves[2]);
        autograd.backward([output], [weight]);
        return [output.detach(), .. leaves.Select(static leaf => leaf.grad!)];
    }
}
