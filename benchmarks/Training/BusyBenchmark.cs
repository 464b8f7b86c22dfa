using System.Diagnostics;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>Training beside as many busy programs as there are processors, as a share of its speed alone. A fair share would be a half.</summary>
internal static class BusyBenchmark
{
    /// <summary>The job on a shape in a type.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type, int steps) => new(
        $"busy-train-{shape.Name}-{TrainingBenchmark.Label(type)}", "of quiet speed", () => Measure(shape, type, steps), PeerArguments: null);

    private static BenchmarkFigure Measure(ModelShape shape, ScalarType type, int steps)
    {
        var quiet = TrainingBenchmark.Measure(shape, type, steps).Value;
        var others = Enumerable.Range(0, Environment.ProcessorCount).Select(static _ => Spin()).ToArray();
        try
        {
            var busy = TrainingBenchmark.Measure(shape, type, steps).Value;
            return new BenchmarkFigure(busy / quiet, Note: FormattableString.Invariant($"{busy:N0} tokens/s beside {others.Length} busy programs, {quiet:N0} alone"));
        }
        finally
        {
            foreach (var other in others)
            {
                other.Kill();
                other.Dispose();
            }
        }
    }

    private static Process Spin() => Process.Start(new ProcessStartInfo("dotnet", [typeof(Benchmark).Assembly.Location, "--spin"]) { UseShellExecute = false, RedirectStandardOutput = true })!;
}
