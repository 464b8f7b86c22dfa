using System.Diagnostics;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Adapters;

/// <summary>How many times a second the active adapter of a model of SmolLM2's shape changes.</summary>
internal static class SwitchBenchmark
{
    private const int Times = 1000;

    /// <summary>The job; PEFT's own switch walks all modules, and has no job beside it.</summary>
    public static Benchmark Job() => new("switch-smollm2", "switches/s", Measure, null);

    private static BenchmarkFigure Measure()
    {
        using var model = new PeftModel(ModelShape.SmolLm2.Create(ScalarType.BFloat16), "smollm2");
        var config = new LoraConfig { Rank = 8, TargetModules = ModuleNames.AllLinear };
        model.AddAdapter(config, "a", 1);
        model.AddAdapter(config, "b", 2);
        model.SetActive("b");
        var clock = Stopwatch.StartNew();
        for (var i = 0; i < Times; i++)
        {
            model.SetActive(i % 2 == 0 ? "a" : "b");
        }

        return new BenchmarkFigure(Times / clock.Elapsed.TotalSeconds, Note: FormattableString.Invariant($"{clock.Elapsed.TotalMilliseconds / Times:F4} ms a switch"));
    }
}
