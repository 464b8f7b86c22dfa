using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>One row times a matrix by our own kernel beside the engine's product.</summary>
public sealed class RowProductTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(1, 1)]
    [InlineData(7, 5)]
    [InlineData(16, 3)]
    [InlineData(33, 129)]
    [InlineData(64, 64)]
    [InlineData(111, 1000)]
    [InlineData(1536, 577)]
    public void A_row_times_a_matrix_is_the_product(int width, int height)
    {
        var x = randn(1, width);
        var weight = randn(height, width);
        OperatorTests.Close(x.to(ScalarType.Float64).mm(weight.to(ScalarType.Float64).t()).to(ScalarType.Float32), RowProduct.Run(x, weight), 1e-6 * width + 1e-6);

        var (xHalf, weightHalf) = (x.to(ScalarType.BFloat16), weight.to(ScalarType.BFloat16));
        var expected = xHalf.to(ScalarType.Float64).mm(weightHalf.to(ScalarType.Float64).t());
        var found = RowProduct.Run(xHalf, weightHalf);
        Assert.Equal(ScalarType.BFloat16, found.dtype);
        Assert.InRange(found.to(ScalarType.Float64).sub(expected).abs().max().item<double>(), 0, 5e-3 * Math.Max(1, expected.abs().max().item<double>()));
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(7, 5)]
    [InlineData(33, 129)]
    [InlineData(64, 512)]
    [InlineData(111, 1000)]
    [InlineData(577, 1536)]
    public void A_row_times_a_matrix_of_the_other_layout_is_the_product(int inputs, int outputs)
    {
        var x = randn(1, inputs);
        var weight = randn(inputs, outputs).t();
        Assert.True(ColumnProduct.Serves(x, weight));
        Assert.Equal(inputs == 1 || outputs == 1, RowProduct.Serves(x, weight));
        OperatorTests.Close(x.to(ScalarType.Float64).mm(weight.to(ScalarType.Float64).t()).to(ScalarType.Float32), ColumnProduct.Run(x, weight), (1e-6 * inputs) + 1e-6);

        var (xHalf, weightHalf) = (x.to(ScalarType.BFloat16), weight.t().to(ScalarType.BFloat16).t());
        var expected = xHalf.to(ScalarType.Float64).mm(weightHalf.to(ScalarType.Float64).t());
        var found = ColumnProduct.Run(xHalf, weightHalf);
        Assert.Equal(ScalarType.BFloat16, found.dtype);
        Assert.InRange(found.to(ScalarType.Float64).sub(expected).abs().max().item<double>(), 0, 5e-3 * Math.Max(1, expected.abs().max().item<double>()));
    }

    [Fact]
    public void Only_what_lies_in_the_processors_memory_row_by_row_is_served()
    {
        var weight = randn(4, 8);
        Assert.True(RowProduct.Serves(randn(1, 8), weight));
        Assert.False(RowProduct.Serves(randn(1, 4), weight.t()));
        Assert.False(RowProduct.Serves(randn(1, 8, dtype: ScalarType.Float64), weight));
        Assert.False(RowProduct.Serves(randn(1, 8).to(ScalarType.BFloat16), weight));
    }

    [Fact]
    public void Equal_products_are_equal_bit_by_bit()
    {
        var (x, weight) = (randn(1, 700), randn(3000, 700));
        var first = RowProduct.Run(x, weight);
        for (var i = 0; i < 20; i++)
        {
            Assert.Equal(0, first.sub(RowProduct.Run(x, weight)).abs().max().item<float>());
        }
    }
}
