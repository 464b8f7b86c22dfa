using System.Diagnostics;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Quantization.Blocks;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Generation;

/// <summary>One row times a packed weight that is larger than a cache, as in the generation of text by a large model: stored bytes read a second.</summary>
internal static class RowBenchmark
{
    private const long Width = 8192;
    private const long Height = 16384;
    private const int Passes = 12;

    /// <summary>A job for each form.</summary>
    public static IEnumerable<Benchmark> Jobs() =>
    [
        Job("nf4", static values => FourBitWeight.Quantize(values, new FourBitOptions(FourBitType.NF4), new UnpackBuffer())),
        Job("nf4-double", static values => FourBitWeight.Quantize(values, new FourBitOptions(FourBitType.NF4) { HasNestedScales = true }, new UnpackBuffer())),
        Job("int8", static values => Int8Weight.Quantize(values, 0, new UnpackBuffer())),
        .. from type in (string[])["Q8_0", "Q4_0", "Q4_K", "Q6_K"] select Job(type, values => BlockWeight.Quantize(values, type, new UnpackBuffer())),
    ];

    private static Benchmark Job(string name, Func<Tensor, PackedWeight> pack) => new($"row-{name}", "GB/s", () => Measure(pack), null, UnitSize: 1e9);

    private static BenchmarkFigure Measure(Func<Tensor, PackedWeight> pack)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var layer = new Linear(Width, Height);
        layer.Weight.Pack(pack(randn([Height, Width], ScalarType.BFloat16)));
        var x = randn([1, Width], ScalarType.BFloat16);
        var best = double.MaxValue;
        for (var i = 0; i < Passes; i++)
        {
            var clock = Stopwatch.StartNew();
            layer.Forward(x, new ForwardContext()).Dispose();
            best = Math.Min(best, clock.Elapsed.TotalSeconds);
        }

        var rate = layer.Weight.Bytes / best;
        return new BenchmarkFigure(rate, rate / MemoryReadRate.Measure());
    }
}
