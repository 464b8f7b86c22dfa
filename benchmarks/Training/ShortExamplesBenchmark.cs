using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>
/// LoRA of rank 8 on every linear layer, on examples of 60 random tokens in the mean (their lengths fall off exponentially), packed into rows of 512, four a step; the peer pads
/// 8 of them to the longest of their batch (its scores of 32 would take some 30 GB). Tokens are counted without padding.
/// </summary>
internal static class ShortExamplesBenchmark
{
    private const int WarmUp = 2, Rows = 4, Length = 512, Shortest = 8, Mean = 60, PeersRows = 8;

    /// <summary>The job on a shape in a type, beside the peer's.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type, int steps) => new(
        $"train-{shape.Name}-{TrainingBenchmark.Label(type)}-packed",
        "tokens/s",
        () => Measure(shape, type, steps),
        ["train", "--shape", shape.Name, "--dtype", type == ScalarType.BFloat16 ? "bfloat16" : "float32", "--steps", $"{steps}", "--short", "1000", "--rows", $"{PeersRows}"]);

    private static BenchmarkFigure Measure(ModelShape shape, ScalarType type, int steps)
    {
        using var model = new PeftModel(shape.Create(type), shape.Name);
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
        var data = new PackedRows((int)(long)shape.Config["vocab_size"]!, Rows * (steps + WarmUp) * Length / Mean);
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = data,
            Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = Rows, MaxSteps = steps + WarmUp },
        }).Train();
        var speeds = record.Steps.Zip(record.Steps.Skip(1), static (before, after) => after.Tokens / (after.Seconds - before.Seconds)).Skip(WarmUp - 1).Order().ToArray();
        return new BenchmarkFigure(speeds[speeds.Length / 2], Note: FormattableString.Invariant($"rows are {data.Fill:P1} full; the first step took {record.Steps[0].Seconds:N1} s"));
    }

    private sealed class PackedRows : ITrainingData
    {
        private readonly IReadOnlyList<TokenRow> _rows;

        public PackedRows(int vocabulary, int count)
        {
#pragma warning disable CA5394 // Repeatable, not secret.
            var random = new Random(0);
            TokenRow[] examples = [.. Enumerable.Range(0, count).Select(_ =>
            {
                var ids = new int[Math.Clamp((int)(-Mean * Math.Log(1 - random.NextDouble())), Shortest, Length)];
                for (var i = 0; i < ids.Length; i++)
                {
                    ids[i] = random.Next(5, vocabulary);
                }

                return new TokenRow(ids, ids);
            })];
#pragma warning restore CA5394
            _rows = Packing.Pack(examples, Length, PackingStrategy.BestFit);
            Fill = _rows.Average(static row => (double)row.InputIds.Length / Length);
        }

        public double Fill { get; }

        public int Count => _rows.Count;

        public string Fingerprint => "packed";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) => Collator.Flattened([.. rows.Select(row => _rows[row])], 0, device);
    }
}
