using System.Diagnostics;
using Peft.Adapters.Model;
using Peft.Benchmarks.Training;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Generation;

/// <summary>Loading a saved model from files in bfloat16 that are in the system's cache, ready to compute.</summary>
internal static class LoadBenchmark
{
    private const int Loads = 5;
    private const long ShardBytes = 600_000_000;

    /// <summary>The job on a shape, loaded as a type, beside the peer's from_pretrained.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type) => new(
        $"load-{shape.Name}-{TrainingBenchmark.Label(type)}",
        "loads/s",
        () => Measure(shape, type),
        ["load", "--shape", shape.Name, "--dtype", type.ToString().ToLowerInvariant()],
        "loads_per_second");

    private static BenchmarkFigure Measure(ModelShape shape, ScalarType type)
    {
        var folder = Directory.CreateTempSubdirectory("peft-load-").FullName;
        try
        {
            using (var model = new PeftModel(shape.CreateAny(ScalarType.BFloat16), shape.Name))
            {
                model.Save(folder, maxShardBytes: ShardBytes);
            }

            double[] seconds = [.. Enumerable.Range(0, Loads).Select(_ =>
            {
                var clock = Stopwatch.StartNew();
                using var model = PeftModel.Load(folder, new LoadOptions { DataType = type });
                return clock.Elapsed.TotalSeconds;
            })];
            var median = seconds.Order().ElementAt(Loads / 2);
            return new BenchmarkFigure(1 / median, Note: FormattableString.Invariant(
                $"{median * 1000:N1} ms, the first {seconds[0] * 1000:N0}, for {new DirectoryInfo(folder).GetFiles().Sum(static file => file.Length) / 1e6:N0} MB"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
