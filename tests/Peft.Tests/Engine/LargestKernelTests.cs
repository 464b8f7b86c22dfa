using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>The largest element of each row, beside the engine's operator.</summary>
public class LargestKernelTests
{
    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void It_is_the_engine_s(ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        foreach (var width in new[] { 1, 7, 1024, 1025, 5000 })
        {
            // Few values, so that many are the largest.
            var x = randint(1, 9, [5, width], dtype: ScalarType.Float32, generator: generator).neg().to(type);
            Assert.True(LargestKernel.Serves(x));
            var found = LargestKernel.Find(x);
            Assert.Equal(x.argmax(-1).data<long>().ToArray(), found.Select(static one => (long)one.Index));
            Assert.Equal(x.amax([-1]).to(ScalarType.Float32).data<float>().ToArray(), found.Select(static one => one.Value));
        }
    }

    [Fact]
    public void What_is_no_number_is_seen()
    {
        using var x = full([2, 3000], float.NegativeInfinity);
        x[1, 2500] = float.NaN;
        x[1, 2700] = 5;
        var found = LargestKernel.Find(x);
        Assert.Equal((0, float.NegativeInfinity), found[0]);
        Assert.Equal(2500, found[1].Index);
        Assert.True(float.IsNaN(found[1].Value));
    }
}
