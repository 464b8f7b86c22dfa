using System.Diagnostics;
using Peft.Models;
using Peft.Quantization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Generation;

/// <summary>Unpacking of a large four-bit weight to bfloat16, as a training step does it twice for each weight: bytes read and written a second.</summary>
internal static class UnpackingBenchmark
{
    private const long Size = 8192;
    private const int Passes = 8;

    /// <summary>The job for a four-bit type.</summary>
    public static Benchmark Job(FourBitType type) => new($"unpack-{type.Name}", "GB/s", () => Measure(type), null, UnitSize: 1e9);

    private static BenchmarkFigure Measure(FourBitType type)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var packed = FourBitWeight.Quantize(randn([Size, Size]).to(ScalarType.BFloat16), new FourBitOptions(type), new UnpackBuffer());
        var target = empty([Size, Size], ScalarType.BFloat16);
        packed.Unpack(target);
        var best = double.MaxValue;
        for (var i = 0; i < Passes; i++)
        {
            var clock = Stopwatch.StartNew();
            packed.Unpack(target);
            best = Math.Min(best, clock.Elapsed.TotalSeconds);
        }

        var rate = ((Size * Size * sizeof(short)) + packed.Bytes) / best;
        return new BenchmarkFigure(rate, rate / MemoryReadRate.Measure());
    }
}
