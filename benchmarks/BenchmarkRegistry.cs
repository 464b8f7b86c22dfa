using Peft.Benchmarks.Adapters;
using Peft.Benchmarks.Generation;
using Peft.Benchmarks.Tokenizers;
using Peft.Benchmarks.Training;
using static TorchSharp.torch.ScalarType;

namespace Peft.Benchmarks;

/// <summary>Every job there is: a new one is a file and a line here.</summary>
internal static class BenchmarkRegistry
{
    /// <summary>All jobs in the order they are run.</summary>
    public static IReadOnlyList<Benchmark> All { get; } =
    [
        TrainingBenchmark.Job(ModelShape.SmolLm2, Float32, steps: 4),
        TrainingBenchmark.Job(ModelShape.SmolLm2, BFloat16, steps: 4),
        TrainingBenchmark.Job(ModelShape.SmolLm2, Float32, steps: 4, checkpointing: true),
        TrainingBenchmark.Job(ModelShape.Pocket, Float32, steps: 12),
        TrainingBenchmark.Job(ModelShape.Pocket, BFloat16, steps: 12),
        DiffusionTrainingBenchmark.Job(Float32, steps: 4),
        BusyBenchmark.Job(ModelShape.Pocket, Float32, steps: 30),
        GenerationBenchmark.Job(ModelShape.SmolLm2, Float32),
        GenerationBenchmark.Job(ModelShape.SmolLm2, BFloat16),
        LargeDataBenchmark.Job("100mb", 100_000_000),
        LargeDataBenchmark.Job("1gb", 1_000_000_000),
        .. TokenizerBenchmark.Jobs(),
        .. MethodBenchmark.Jobs(),
        SwitchBenchmark.Job(),
        MergeBenchmark.Job(),
    ];
}
