using System.Diagnostics;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Training;
using Peft.Training.Sweeps;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>Four adapters of ranks 4 to 16 on every linear layer, one row each a step: how many times the speed of four trainings one after another a sweep of them has.</summary>
internal static class SweepBenchmark
{
    private const int Rounds = 3;
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
                    Data = new TrainingBenchmark.RandomRows((long)shape.Config["vocab_size"]!, steps, length),
                    Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = 1, MaxSteps = steps },
                };
            }),
        ];

        // To warm up, both ways.
        Seconds(requests);
        Seconds(requests[..1]);
        List<double> alone = [], together = [];
        for (var round = 0; round < Rounds; round++)
        {
            // In turns, for a machine is not equally fast all the time.
            alone.Add(requests.Sum(static request => Seconds([request])));
            together.Add(Seconds(requests));
        }

        var (one, all) = (Median(alone), Median(together));
        return new BenchmarkFigure(one / all, Note: FormattableString.Invariant($"{steps} steps of {s_ranks.Length} adapters take {all:N2} s, one after another {one:N2} s"));
    }

    private static double Seconds(IReadOnlyList<TrainingRequest> requests)
    {
        var clock = Stopwatch.StartNew();
        new Sweep(requests).Run();
        return clock.Elapsed.TotalSeconds;
    }

    private static double Median(IEnumerable<double> times)
    {
        double[] sorted = [.. times.Order()];
        return sorted[sorted.Length / 2];
    }
}
