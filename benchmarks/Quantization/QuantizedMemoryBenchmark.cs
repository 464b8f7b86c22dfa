using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Quantization;
using Peft.Tensors;
using Peft.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Quantization;

/// <summary>
/// What a base in four bits takes: its weights come one by one, as from a file, and are packed as they come. Then a step of training on one row of 256
/// tokens with recomputed blocks, and some tokens of a text.
/// </summary>
internal static class QuantizedMemoryBenchmark
{
    private const int Length = 256;
    private const int Tokens = 16;
    private const double Gigabyte = 1e9;

    /// <summary>The job on a shape.</summary>
    public static Benchmark Job(ModelShape shape) => new($"memory-{shape.Name}-nf4", "GB", () => Measure(shape), null);

    private static BenchmarkFigure Measure(ModelShape shape)
    {
        using (var first = ones(1).add_(1))
        {
            // The engine is there.
        }

        var empty = Memory("VmRSS:");
        var model = (CausalModel)ArchitectureRegistry.Create(new ModelConfig((System.Text.Json.Nodes.JsonObject)shape.Config.DeepClone()));
        var config = new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = true, ComputeType = ScalarType.BFloat16 };
        using var store = new GeneratedWeights(model);
        var clock = Stopwatch.StartNew();
        ModelLoader.LoadWeights(model, store, new LoadOptions { Packing = new ModelQuantizer(config) });
        store.Release();
        var (loadSeconds, loaded, loadPeak) = (clock.Elapsed.TotalSeconds, Memory("VmRSS:") - empty, Memory("VmHWM:") - empty - store.NoiseBytes);
        var speed = Generate(model);
        using var adapted = new PeftModel(model, shape.Name);
        adapted.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
        clock.Restart();
        new Trainer(new TrainingRequest
        {
            Model = adapted,
            AdapterName = "default",
            Data = new OneRow((long)shape.Config["vocab_size"]!),
            Options = new TrainingOptions { LearningRate = 1e-4, BatchSize = 1, MaxSteps = 1, GradientCheckpointing = true },
        }).Train();
        var (trainSeconds, peak) = (clock.Elapsed.TotalSeconds, Memory("VmHWM:"));
        var weights = model.NamedParameters().Where(static named => named.Parameter.Shape.Count == 2 && named.Module is Peft.Models.Layers.Linear).Sum(static named => named.Parameter.Bytes);
        return new BenchmarkFigure(
            loaded / Gigabyte,
            weights * speed / MemoryReadRate.Measure(),
            string.Create(CultureInfo.InvariantCulture, $"""
                above an empty session of {empty / Gigabyte:F2} GB: {loaded / Gigabyte:F2} loaded in {loadSeconds:F0} s, at most {loadPeak / Gigabyte:F2} meanwhile; with a step of 1 x {Length} recomputed in {trainSeconds:F0} s the process took at most {peak / Gigabyte:F2}; {speed:F1} tokens/s
                """)) { PeakBytes = peak };
    }

    private static double Generate(CausalModel model)
    {
        using var noGrad = no_grad();
        using var cache = new ModelCache();
        var context = new ForwardContext { Cache = cache };
        var next = ones([1, 1], ScalarType.Int64);
        var clock = new Stopwatch();
        for (var i = 0; i <= Tokens; i++)
        {
            using var scope = NewDisposeScope();
            var output = model.Forward(next, context);
            var token = model.Logits(output.LastPosition(), context).argmax(1, keepdim: true);
            next.Dispose();
            next = token.MoveToOuterDisposeScope();
            next.item<long>();
            clock.Start();
        }

        next.Dispose();
        return Tokens / clock.Elapsed.TotalSeconds;
    }

    private static long Memory(string what)
    {
        const string Status = "/proc/self/status";
        return File.Exists(Status)
            ? long.Parse(File.ReadLines(Status).First(line => line.StartsWith(what, StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024
            : Environment.WorkingSet;
    }

    /// <summary>Random weights in bfloat16 under a model's names: each is a piece of the same noise, copied when it is read.</summary>
    private sealed class GeneratedWeights : TensorStore
    {
        private readonly Dictionary<string, TensorEntry> _entries;
        private readonly Tensor _noise;

        public GeneratedWeights(PretrainedModel model)
        {
            _entries = model.NamedWeights().ToDictionary(static named => named.Path, static named => new TensorEntry(named.Path, ScalarType.BFloat16, named.Parameter.Shape, "BF16"));
            using var scope = NewDisposeScope();
            _noise = randn([_entries.Values.Max(static entry => entry.Count)], ScalarType.BFloat16).mul_(0.02).DetachFromDisposeScope();
            NoiseBytes = _noise.NumberOfElements * sizeof(short);
        }

        public long NoiseBytes { get; }

        public override IReadOnlyCollection<string> Names => _entries.Keys;

        public override string Path => "(generated)";

        public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry) => _entries.TryGetValue(name, out entry);

        public void Release() => _noise.Dispose();

        protected override Tensor ReadStored(TensorEntry entry) => entry.Shape.Count == 1
            ? ones([.. entry.Shape], ScalarType.BFloat16)
            : _noise.narrow(0, 0, entry.Count).view([.. entry.Shape]).clone();

        protected override void Dispose(bool disposing) => _noise.Dispose();
    }

    private sealed class OneRow(long vocabulary) : ITrainingData
    {
        public int Count => 1;

        public string Fingerprint => "random";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
        {
            var ids = randint(5, vocabulary, [1, Length], ScalarType.Int64, device);
            return new TrainingBatch(ids, ids.clone()) { TokenCount = Length, TargetCount = Length - 1 };
        }
    }
}
