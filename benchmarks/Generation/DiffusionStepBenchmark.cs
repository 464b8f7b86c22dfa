using System.Diagnostics;
using Peft.Benchmarks.Training;
using Peft.Diffusion.Models;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Generation;

/// <summary>A step towards a picture: the UNet of Stable Diffusion 1.5's shape on latents of 512 x 512 pixels, with and without the prompt.</summary>
internal static class DiffusionStepBenchmark
{
    private const int WarmUp = 2;

    /// <summary>The job in a type, beside the peer's.</summary>
    public static Benchmark Job(UNetShape shape, ScalarType type, int steps)
    {
        var name = type == ScalarType.BFloat16 ? "bfloat16" : "float32";
        return new Benchmark($"{shape.Name}-step-{TrainingBenchmark.Label(type)}", "steps/s", () => Measure(shape, type, steps), ["denoise", "--unet", shape.PeerName, "--dtype", name, "--steps", $"{steps}"], "steps_per_second");
    }

    private static BenchmarkFigure Measure(UNetShape shape, ScalarType type, int steps)
    {
        using var noGradients = no_grad();
        using var unet = DiffusionTrainingBenchmark.Create(shape, type);
        using var scope = NewDisposeScope();
        var (sample, states) = (randn([2, 4, DiffusionTrainingBenchmark.Side, DiffusionTrainingBenchmark.Side]).to(type), randn([2 * DiffusionTrainingBenchmark.TextLength, shape.TextWidth]).to(type));
        var text = new BackboneOutput(states, 2, DiffusionTrainingBenchmark.TextLength);
        var seconds = new List<double>();
        for (var step = 0; step < steps + WarmUp; step++)
        {
            using var own = NewDisposeScope();
            var clock = Stopwatch.StartNew();
            unet.Forward(new UNetInputs(sample, tensor([500f, 500f]), text), new ForwardContext());
            seconds.Add(clock.Elapsed.TotalSeconds);
        }

        double[] measured = [.. seconds.Skip(WarmUp).Order()];
        return new BenchmarkFigure(1 / measured[measured.Length / 2]);
    }
}
