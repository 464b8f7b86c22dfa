using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>What is told of a training's length after ten steps, beside what it then took: of full rows, of short ones of many lengths, and of one that evaluates.</summary>
internal static class TimeLeftBenchmark
{
    private const int Told = 10, Repeats = 5;

    /// <summary>The job: the share of the whole by which the worst of them was off.</summary>
    public static Benchmark Job() => new("time-left", "of the whole, at worst", Measure, null);

    private static BenchmarkFigure Measure()
    {
        var full = Off(ModelShape.SmolLm2, rows: 1, length: 64, steps: 40, evaluates: false);

        // Ten of its steps are a third of a second, in which another program may come between.
        var small = Enumerable.Range(0, Repeats).Select(static _ => Off(ModelShape.Pocket, rows: 4, length: 128, steps: 120, evaluates: false)).Order().ElementAt(Repeats / 2);
        var evaluated = Off(ModelShape.Gpt2, rows: 2, length: 32, steps: 60, evaluates: true);
        return new BenchmarkFigure(Math.Max(Math.Max(Math.Abs(full), Math.Abs(small)), Math.Abs(evaluated)), null, FormattableString.Invariant(
            $"after {Told} steps: SmolLM2's shape {full:+0 %;-0 %}, pocket-llama's {small:+0 %;-0 %}, GPT-2's with evaluations {evaluated:+0 %;-0 %}"));
    }

    private static double Off(ModelShape shape, int rows, int length, int steps, bool evaluates)
    {
        using var model = new PeftModel(shape.CreateAny(ScalarType.Float32), shape.Name);
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear });
        var vocabulary = (long)shape.Config["vocab_size"]!;
        var watch = new TenthStep();
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = new TrainingBenchmark.RandomRows(vocabulary, rows * steps, length),
            EvaluationData = evaluates ? new TrainingBenchmark.RandomRows(vocabulary, rows * 6, length) : null,
            Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = rows, MaxSteps = steps, EvaluationInterval = evaluates ? 12 : 0, LoggingInterval = 1 },
            Progress = watch,
            OnStart = _ => watch.Start(),
        }).Train();
        return (watch.Whole / record.Duration.TotalSeconds) - 1;
    }

    private sealed class TenthStep : IProgress<TrainingProgress>
    {
        private readonly System.Diagnostics.Stopwatch _clock = System.Diagnostics.Stopwatch.StartNew();

        public double Whole { get; private set; }

        /// <summary>The first step comes: before it the model was looked at.</summary>
        public void Start() => _clock.Restart();

        public void Report(TrainingProgress value)
        {
            if (value.Step == Told)
            {
                Whole = _clock.Elapsed.TotalSeconds + value.Remaining.TotalSeconds;
            }
        }
    }
}
