using System.Diagnostics;
using static TorchSharp.torch;

namespace Peft.Benchmarks;

/// <summary>This machine's matrix-product rate: the best of a few square products, as the peer's script measures it.</summary>
internal static class MatrixProductRate
{
    /// <summary>Measures in floating-point operations a second.</summary>
    public static double Measure(ScalarType type)
    {
        using var noGrad = no_grad();
        var best = 0.0;
        foreach (var size in new long[] { 1024, 2048 })
        {
            using var scope = NewDisposeScope();
            var a = randn(size, size).to_type(type);
            var b = randn(size, size).to_type(type);
            a.matmul(b);
            for (var i = 0; i < 6; i++)
            {
                var clock = Stopwatch.StartNew();
                a.matmul(b);
                best = Math.Max(best, 2.0 * size * size * size / clock.Elapsed.TotalSeconds);
            }
        }

        return best;
    }
}
