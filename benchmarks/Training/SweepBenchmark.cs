using System.Diagnostics;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>Four adapters of ranks 4 to 16 on every linear layer, one row each a step: how many times the speed of one after another they are trained at side by side.</summary>
internal static class SweepBenchmark
{
    private const int WarmUp = 2, Rounds = 3;
    private static readonly int[] s_ranks = [4, 8, 12, 16];

    /// <summary>The job; there is no peer that trains several at once.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type, int length, int steps) =>
        new($"sweep-{shape.Name}-{TrainingBenchmark.Label(type)}-{length}", "times", () => Measure(shape, type, length, steps), null);

    private static BenchmarkFigure Measure(ModelShape shape, ScalarType type, int length, int steps)
    {
        using var model = new PeftModel(shape.Create(type), shape.Name);
        TrainingRequest[] requests =
        [
            .. s_ranks.Select(rank =>
            {
                var name = $"r{rank}";
                model.AddAdapter(new LoraConfig { Rank = rank, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, name);
                return new TrainingRequest
                {
                    Model = model,
                    AdapterName = name,
                    Data = new TrainingBenchmark.RandomRows((long)shape.Config["vocab_size"]!, steps + WarmUp, length),
                    Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = 1, MaxSteps = steps + WarmUp },
                };
            }),
        ];
        List<double>[] single = [.. requests.Select(static _ => new List<double>())];
        List<double> shared = [];
        for (var round = 0; round < Rounds; round++)
        {
            // In turns, for a machine is not equally fast all the time.
            for (var i = 0; i < requests.Length; i++)
            {
                single[i].AddRange(StepTimes(requests[i..(i + 1)]));
            }

            shared.AddRange(StepTimes(requests));
        }

        double[] alone = [.. single.Select(Median)];
        var together = Median(shared);
        return new BenchmarkFigure(alone.Sum() / together, Note: FormattableString.Invariant($"a step of all {s_ranks.Length} takes {together * 1000:N0} ms, one after another {alone.Sum() * 1000:N0} ms"));
    }

    /// <summary>Seconds of each step after those to warm up, of all trainings together.</summary>
    private static IEnumerable<double> StepTimes(TrainingRequest[] requests)
    {
        var clock = Stopwatch.StartNew();
        List<double> times = [];
        new Trainer([.. requests[..^1], requests[^1] with { AfterStep = _ => times.Add(clock.Elapsed.TotalSeconds) }]).TrainAll();
        return times.Zip(times.Skip(1), static (before, after) => after - before).Skip(WarmUp - 1);
    }

    private static double Median(IEnumerable<double> times)
    {
        double[] sorted = [.. times.Order()];
        return sorted[sorted.Length / 2];
    }
}
