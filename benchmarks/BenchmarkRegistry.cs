using Peft.Benchmarks.Adapters;
using Peft.Benchmarks.Generation;
using Peft.Benchmarks.Quantization;
using Peft.Benchmarks.Tokenizers;
using Peft.Benchmarks.Training;
using Peft.Quantization;
using static TorchSharp.torch.ScalarType;

namespace Peft.Benchmarks;

/// <summary>Every job there is: a new one is a file and a line here.</summary>
internal static class BenchmarkRegistry
{
    private static readonly ModelShape[] s_families = [ModelShape.Gpt2, ModelShape.T5Small, ModelShape.Qwen3, ModelShape.Qwen35];

    /// <summary>All jobs in the order they are run.</summary>
    public static IReadOnlyList<Benchmark> All { get; } =
    [
        TrainingBenchmark.Job(ModelShape.SmolLm2, Float32, steps: 4),
        TrainingBenchmark.Job(ModelShape.SmolLm2, BFloat16, steps: 4),
        TrainingBenchmark.Job(ModelShape.SmolLm2, Float32, steps: 4, checkpointing: true),
        TrainingBenchmark.Job(ModelShape.Pocket, Float32, steps: 60),
        TrainingBenchmark.Job(ModelShape.Pocket, BFloat16, steps: 60),
        .. from shape in s_families from type in new[] { Float32, BFloat16 } select TrainingBenchmark.Job(shape, type, steps: 3),
        TrainingBenchmark.Job(ModelShape.DeltaNet, Float32, steps: 8),
        TrainingBenchmark.Job(ModelShape.DeltaNet, BFloat16, steps: 8),
        DiffusionTrainingBenchmark.Job(UNetShape.Small, Float32, steps: 4),
        ShortExamplesBenchmark.Job(ModelShape.SmolLm2, Float32, steps: 4),
        ShortExamplesBenchmark.Job(ModelShape.SmolLm2, BFloat16, steps: 4),
        PreferenceBenchmark.Job(ModelShape.SmolLm2, Float32, steps: 4),
        PreferenceBenchmark.Job(ModelShape.SmolLm2, BFloat16, steps: 4),
        SweepBenchmark.Job(ModelShape.SmolLm2, Float32, length: 16, steps: 6),
        SweepBenchmark.Job(ModelShape.SmolLm2, Float32, length: 512, steps: 2),
        DiffusionStepBenchmark.Job(UNetShape.Small, Float32, steps: 6),
        TimeLeftBenchmark.Job(),
        BusyBenchmark.Job(ModelShape.Pocket, Float32, steps: 30),
        GenerationBenchmark.Job(ModelShape.SmolLm2, Float32),
        GenerationBenchmark.Job(ModelShape.SmolLm2, BFloat16),
        .. from shape in (ModelShape[])[.. s_families, ModelShape.Mixtral] from type in new[] { Float32, BFloat16 } select GenerationBenchmark.Job(shape, type),
        .. from shape in new[] { ModelShape.Pocket, ModelShape.SmolLm2, ModelShape.Llama1B } select LoadBenchmark.Job(shape, BFloat16),
        LoadBenchmark.Job(ModelShape.SmolLm2, Float32),
        LoadBenchmark.Job(ModelShape.Llama1B, Float32),
        LargeDataBenchmark.Job("100mb", 100_000_000),
        LargeDataBenchmark.Job("1gb", 1_000_000_000),
        .. QuantisedGeneration(),
        GenerationBenchmark.Blocks(ModelShape.SmolLm2, "Q8_0"),
        GenerationBenchmark.Blocks(ModelShape.SmolLm2, "Q4_0"),
        .. RowBenchmark.Jobs(),
        UnpackingBenchmark.Job(FourBitType.NF4),
        QuantizedMemoryBenchmark.Job(ModelShape.Llama1B),
        .. TokenizerBenchmark.Jobs(),
        .. MethodBenchmark.Jobs(),
        SwitchBenchmark.Job(),
        MergeBenchmark.Job(),
    ];

    /// <summary>Jobs that take minutes, and run where they are asked for by name.</summary>
    public static IReadOnlyList<Benchmark> Long { get; } =
    [
        QuantizedMemoryBenchmark.Job(ModelShape.Llama7B),
        .. from type in new[] { Float32, BFloat16 } select DiffusionStepBenchmark.Job(UNetShape.StableDiffusion15, type, steps: 1),
        .. from type in new[] { Float32, BFloat16 } from checkpointing in new[] { false, true } select DiffusionTrainingBenchmark.Job(UNetShape.StableDiffusion15, type, steps: 1, checkpointing),
    ];

    private static IEnumerable<Benchmark> QuantisedGeneration() =>
        from config in new QuantizationConfig[] { new() { LoadIn4Bit = true, QuantType = FourBitType.NF4, ComputeType = BFloat16 }, new() { LoadIn8Bit = true } }
        from besideBitsAndBytes in new[] { false, true }
        select GenerationBenchmark.Quantised(ModelShape.SmolLm2, config, besideBitsAndBytes);
}
