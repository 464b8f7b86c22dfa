using System.Diagnostics;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Adapters;

/// <summary>Bytes of weights a second that a merge goes through, beside a plain copy of the same weights in the same process: the share.</summary>
internal static class MergeBenchmark
{
    private const int Times = 5;

    /// <summary>The job on SmolLM2's shape in float32, all linear layers at rank 8, for good.</summary>
    public static Benchmark Job() => new("merge-smollm2", "GB/s", Measure, null);

    private static BenchmarkFigure Measure()
    {
        using var noGradients = no_grad();
        List<double> merges = [], copies = [];
        double bytes = 0;
        for (var i = 0; i < Times; i++)
        {
            using var model = new PeftModel(ModelShape.SmolLm2.Create(ScalarType.Float32), "smollm2");
            var adapter = model.AddAdapter(new LoraConfig { Rank = 8, TargetModules = ModuleNames.AllLinear }, "a", 1);
            Tensor[] weights = [.. adapter.Adapter.Layers.Select(static layer => layer.Layer.Weight.Data)];
            bytes = weights.Sum(static weight => (double)weight.numel() * 4);
            var targets = weights.Select(static weight => empty_like(weight)).ToArray();
            copies.Add(Time(() => Array.ForEach(Enumerable.Range(0, weights.Length).ToArray(), index => targets[index].copy_(weights[index]))));
            copies[^1] = Math.Min(copies[^1], Time(() => Array.ForEach(Enumerable.Range(0, weights.Length).ToArray(), index => targets[index].copy_(weights[index]))));
            Array.ForEach(targets, static target => target.Dispose());
            merges.Add(Time(() => model.Merge(options: new MergeOptions { Unload = true })));
        }

        var (merge, copy) = (merges.Min(), copies.Min());
        return new BenchmarkFigure(bytes / merge / 1e9, copy / merge, FormattableString.Invariant($"a plain copy goes at {bytes / copy / 1e9:F1} GB/s"));
    }

    private static double Time(Action act)
    {
        var clock = Stopwatch.StartNew();
        act();
        return clock.Elapsed.TotalSeconds;
    }
}
