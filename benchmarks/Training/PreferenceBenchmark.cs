using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>
/// Direct preference optimisation with its reference pass: LoRA of rank 8 on every linear layer, two pairs a step, each text 256 random tokens of prompt and 256 of answer. The
/// reference is the base with the adapter off, here and at the peer. Tokens are those of the pairs, counted once.
/// </summary>
internal static class PreferenceBenchmark
{
    private const int WarmUp = 2, PairCount = 2, Length = 512, PromptLength = 256;

    /// <summary>The job on a shape in a type, beside the peer's.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type, int steps) => new(
        $"dpo-{shape.Name}-{TrainingBenchmark.Label(type)}",
        "tokens/s",
        () => Measure(shape, type, steps),
        ["prefer", "--shape", shape.Name, "--dtype", type == ScalarType.BFloat16 ? "bfloat16" : "float32", "--steps", $"{steps}", "--rows", $"{PairCount}", "--length", $"{Length}"]);

    private static BenchmarkFigure Measure(ModelShape shape, ScalarType type, int steps)
    {
        using var model = new PeftModel(shape.Create(type), shape.Name);
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = new RandomPairs((long)shape.Config["vocab_size"]!, PairCount * (steps + WarmUp)),
            Options = new TrainingOptions { Objective = "dpo", LearningRate = 1e-4, BatchSize = PairCount, MaxSteps = steps + WarmUp },
        }).Train();
        var seconds = record.Steps.Zip(record.Steps.Skip(1), static (before, after) => after.Seconds - before.Seconds).Skip(WarmUp - 1).Order().ToArray();
        return new BenchmarkFigure(2 * PairCount * Length / seconds[seconds.Length / 2]);
    }

    private sealed class RandomPairs(long vocabulary, int count) : ITrainingData
    {
        public int Count => count;

        public string Fingerprint => "pairs";

        public ExampleKind ExampleKind => ExampleKind.Pair;

        public int? LongestRow => 2 * Length;

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
        {
            var ids = randint(5, vocabulary, [2 * rows.Count, Length], ScalarType.Int64, device);
            var labels = ids.clone();
            labels.narrow(1, 0, PromptLength).fill_(TrainingExample.Ignored);
            return new PairBatch(ids, labels) { TokenCount = ids.numel(), TargetCount = 2L * rows.Count * (Length - PromptLength) };
        }
    }
}
