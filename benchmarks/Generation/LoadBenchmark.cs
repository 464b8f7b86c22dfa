using System.Diagnostics;
using Peft.Adapters.Model;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Generation;

/// <summary>Loading a saved model of a few hundred MB from files that are in the system's cache, ready to compute.</summary>
internal static class LoadBenchmark
{
    /// <summary>The job on a shape in bfloat16, beside the peer's from_pretrained.</summary>
    public static Benchmark Job(ModelShape shape) => new($"load-{shape.Name}", "loads/s", () => Measure(shape), ["load", "--shape", shape.Name], "loads_per_second");

    private static BenchmarkFigure Measure(ModelShape shape)
    {
        var folder = Directory.CreateTempSubdirectory("peft-load-").FullName;
        try
        {
            using (var model = new PeftModel(shape.Create(ScalarType.BFloat16), shape.Name))
            {
                model.Save(folder);
            }

            double[] seconds = [.. Enumerable.Range(0, 3).Select(_ =>
            {
                var clock = Stopwatch.StartNew();
                using var model = PeftModel.Load(folder);
                return clock.Elapsed.TotalSeconds;
            }).Order()];
            return new BenchmarkFigure(1 / seconds[1], Note: FormattableString.Invariant($"{seconds[1] * 1000:N0} ms for {new DirectoryInfo(folder).GetFiles().Sum(static file => file.Length) / 1e6:N0} MB"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
