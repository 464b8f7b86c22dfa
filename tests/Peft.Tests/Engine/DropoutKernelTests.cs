using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>Dropout's own draws and products.</summary>
public sealed class DropoutKernelTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(0.9)]
    [InlineData(0.5)]
    [InlineData(0.05)]
    public void Each_element_stays_with_the_probability_whatever_its_neighbours_do(double probability)
    {
        var kept = Kept(1_000_003, probability, seed: 7).to(ScalarType.Float32);
        Assert.InRange(kept.mean().item<float>(), probability - 0.002, probability + 0.002);
        foreach (var distance in new[] { 1, 2, 8, 16, 32, 512, 16384 })
        {
            var both = kept[..^distance].mul(kept[distance..]).mean().item<float>();
            Assert.InRange(both, (probability * probability) - 0.003, (probability * probability) + 0.003);
        }
    }

    [Fact]
    public void Another_seed_keeps_others_and_the_same_seed_the_same()
    {
        var first = Kept(100_000, 0.5, seed: 1);
        Assert.True(first.eq(Kept(100_000, 0.5, seed: 1)).all().item<bool>());
        foreach (var seed in new[] { 2, 1L << 32, 3L << 40 })
        {
            Assert.InRange(first.eq(Kept(100_000, 0.5, seed)).to(ScalarType.Float32).mean().item<float>(), 0.49, 0.51);
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void All_go_or_all_stay_at_the_ends(double probability) =>
        Assert.Equal(probability, Kept(100, probability, seed: 3).to(ScalarType.Float32).mean().item<float>());

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void What_stays_is_what_the_operators_give(ScalarType type)
    {
        using var noGrad = no_grad();
        var x = randn(37, 1001).to(type);
        var kept = Kept(37 * 1001, 0.9, seed: 5).view(37, 1001);
        Assert.Equal(0, (DropoutKernel.Apply(x, kept, 1 / 0.9) - x.mul(kept).mul(1 / 0.9)).abs().max().to(ScalarType.Float32).item<float>());
        Assert.Equal(0, (DropoutKernel.Apply(x.t(), kept.t(), 1) - x.mul(kept).t()).abs().max().to(ScalarType.Float32).item<float>());
    }

    private static Tensor Kept(long count, double probability, long seed)
    {
        var kept = empty([count], ScalarType.Bool);
        DropoutKernel.Fill(kept, probability, seed);
        return kept;
    }
}
