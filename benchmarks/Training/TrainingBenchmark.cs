using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models.Heads;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Training;

/// <summary>LoRA of rank 8 on every linear layer, 4 x 512 random tokens a step, through the product's own trainer.</summary>
internal static class TrainingBenchmark
{
    private const int WarmUp = 2;
    private const int Rows = 4;
    private const int Length = 512;

    /// <summary>The job on a shape in a type, beside the peer's.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type, int steps, bool checkpointing = false)
    {
        // PEFT's class for encoders with decoders looks for a method that transformers has renamed; its plain one trains the same.
        var name = type == ScalarType.BFloat16 ? "bfloat16" : "float32";
        string[] arguments = ["train", "--shape", shape.Name, "--dtype", name, "--steps", $"{steps}"];
        return new Benchmark(
            $"train-{shape.Name}-{Label(type)}{(checkpointing ? "-checkpointing" : "")}",
            "tokens/s",
            () => Measure(shape, type, steps, checkpointing),
            checkpointing ? [.. arguments, "--checkpointing"] : shape == ModelShape.T5Small ? [.. arguments, "--task", ""] : arguments);
    }

    /// <summary>How a type is called in the names of jobs.</summary>
    public static string Label(ScalarType type) => type == ScalarType.BFloat16 ? "bf16" : "fp32";

    /// <summary>Tokens a second: the median over the steps after two to warm up.</summary>
    public static BenchmarkFigure Measure(ModelShape shape, ScalarType type, int steps, bool checkpointing = false, AdapterConfig? config = null)
    {
        using var model = new PeftModel(shape.CreateAny(type), shape.Name);
        model.AddAdapter(config ?? new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear });
        var isSequences = model.Base is SequenceToSequenceModel;
        var data = new RandomRows((long)shape.Config["vocab_size"]!, Rows * (steps + WarmUp), Length, isSequences ? ExampleKind.SequenceToSequence : ExampleKind.Text);
        var options = new TrainingOptions
        {
            LearningRate = 1e-4,
            BatchSize = Rows,
            MaxSteps = steps + WarmUp,
            GradientCheckpointing = checkpointing,
            Objective = isSequences ? "sequence_to_sequence" : "causal_language_modelling",
        };
        var estimate = TrainingEstimate.Of(model, model["default"].TrainableParameters.Sum(static parameter => parameter.Parameter.Count), data, options, timesProducts: true);
        var record = new Trainer(new TrainingRequest { Model = model, AdapterName = "default", Data = data, Options = options }).Train();

        var seconds = record.Steps.Zip(record.Steps.Skip(1), static (before, after) => after.Seconds - before.Seconds).Skip(WarmUp - 1).Order().ToArray();
        var speed = Rows * Length / seconds[seconds.Length / 2];
        var peak = new BenchmarkFigure(speed).PeakBytes;

        // Forward and the gradient of the input: two products a matrix; none for frozen weights.
        var share = 2 * 2 * shape.ProductsPerToken() * speed / MatrixProductRate.Measure(type);
        return new BenchmarkFigure(speed, share, FormattableString.Invariant(
            $"estimated {estimate.PeakBytes / 1e6:N0} MB ({100.0 * estimate.PeakBytes / peak:N0} % of the peak: weights {estimate.WeightBytes / 1e6:N0}, activations {estimate.ActivationBytes / 1e6:N0}, scores {estimate.ScoreBytes / 1e6:N0}, process {estimate.ProcessBytes / 1e6:N0}) and {estimate.Duration?.TotalSeconds:N1} s (took {record.Duration.TotalSeconds:N1} s)"))
        {
            PeakBytes = peak,
        };
    }

    /// <summary>Full rows of random tokens, every one of which is learnt.</summary>
    internal sealed class RandomRows(long vocabulary, int count, int length, ExampleKind kind = ExampleKind.Text) : ITrainingData
    {
        public ExampleKind ExampleKind => kind;

        public int Count => count;

        public string Fingerprint => "random";

        public int? LongestRow => length;

        public long? TokenTotal => (long)count * length;

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
        {
            var ids = randint(5, vocabulary, [rows.Count, length], ScalarType.Int64, device);
            return new TrainingBatch(ids, ids.clone()) { TokenCount = ids.numel(), TargetCount = rows.Count * (length - 1) };
        }
    }
}
