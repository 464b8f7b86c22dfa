using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using Peft.Engine.Cuda;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine.Cuda;

/// <summary>What the GPU's kernels compute beside products, emulated on the processor, beside the formulas in float64.</summary>
public sealed class GpuLayerTests
{
    public static TheoryData<ScalarType, double> Types => new() { { ScalarType.Float32, 1e-5 }, { ScalarType.BFloat16, 2e-2 }, { ScalarType.Float16, 3e-3 } };

    [SkippableTheory]
    [MemberData(nameof(Types))]
    public void The_norm_and_the_gradient_of_its_input_are_autograds(ScalarType type, double tolerance) => EmulatedKernels.Use(device =>
    {
        foreach (var width in (long[])[7, 40, 96, 577])
        {
            using var scope = NewDisposeScope();
            var (x, weight, g) = (randn([5, width]).to(type), randn([width]).to(type), randn([5, width]).to(type));
            var leaf = x.to(ScalarType.Float64).requires_grad_(true);
            var expected = leaf * (leaf.square().mean([1], keepdim: true) + 1e-5).rsqrt() * weight.to(ScalarType.Float64);
            expected.backward([g.to(ScalarType.Float64)]);
            var (y, inverse) = LayerLaunches.RootMeanSquare(device, x, weight, 1e-5);
            Close(expected.detach(), y, tolerance);
            Close(leaf.grad!, LayerLaunches.RootMeanSquareGradient(device, g, x, inverse, weight), 2 * tolerance);
        }
    });

    [SkippableTheory]
    [MemberData(nameof(Types))]
    public void Heads_are_turned_and_gradients_turned_back(ScalarType type, double tolerance) => EmulatedKernels.Use(device =>
    {
        foreach (var (isInterleaved, turned) in ((bool, long)[])[(false, 16), (true, 16), (false, 8)])
        {
            using var scope = NewDisposeScope();
            var all = randn([2, 3, 6, 16]).to(type);
            var heads = all.narrow(2, 1, 4);
            var angles = randn([3, 1, turned / 2]);
            var (cosine, sine) = isInterleaved
                ? (stack([angles.cos(), angles.cos()], -1).flatten(2), stack([angles.sin().neg(), angles.sin()], -1).flatten(2))
                : (cat([angles.cos(), angles.cos()], 2), cat([angles.sin().neg(), angles.sin()], 2));
            var tables = new RotaryTables(cosine.to(type), sine.to(type), isInterleaved);
            KernelDevice.ForProcessor = null;
            using var wide = new RotaryTables(tables.Cosine.to(ScalarType.Float64), tables.Sine.to(ScalarType.Float64), isInterleaved);
            var (expected, back) = (wide.Rotate(heads.to(ScalarType.Float64)), wide.TurnBack(heads.to(ScalarType.Float64)));
            KernelDevice.ForProcessor = device;
            Close(expected, tables.Rotate(heads), tolerance);
            Close(back, tables.TurnBack(heads), tolerance);
        }

        Assert.Equal(6, device.Launches["turn"]);
    });

    [SkippableTheory]
    [MemberData(nameof(Types))]
    public void Gated_activations_and_their_gradients_are_autograds(ScalarType type, double tolerance) => EmulatedKernels.Use(device =>
    {
        foreach (var width in (long[])[3, 64, 100])
        {
            using var scope = NewDisposeScope();
            var (x, g) = (randn([4, 2 * width]).to(type), randn([4, width]).to(type));
            var leaf = x.to(ScalarType.Float64).requires_grad_(true);
            var expected = nn.functional.silu(leaf.narrow(1, 0, width)) * leaf.narrow(1, width, width);
            expected.backward([g.to(ScalarType.Float64)]);
            Close(expected.detach(), LayerLaunches.Gated(device, x), tolerance);
            LayerLaunches.GatedGradient(device, x, g);
            Close(leaf.grad!, x, tolerance);
        }
    });

    [SkippableTheory]
    [MemberData(nameof(Types))]
    public void Cross_entropy_and_its_gradient_are_autograds(ScalarType type, double tolerance) => EmulatedKernels.Use(device =>
    {
        foreach (var (width, scale, smoothing) in ((long, double, double)[])[(5, 1, 0), (1000, 0.5, 0), (333, 1, 0.1)])
        {
            using var scope = NewDisposeScope();
            var (logits, targets, losses) = (randn([6, width]).mul_(4).to(type), randint(0, width, [6], ScalarType.Int64), empty([6]));
            var leaf = logits.to(ScalarType.Float64).requires_grad_(true);
            var scaled = leaf * scale;
            var expected = scaled.logsumexp(1) - ((1 - smoothing) * scaled.gather(1, targets.unsqueeze(1)).squeeze(1)) - (smoothing * scaled.mean([1]));
            expected.sum().backward();
            LayerLaunches.CrossEntropy(device, logits, targets, losses, (scale, smoothing), wantsGradient: false);
            Close(expected.detach(), losses, 1e-5);
            LayerLaunches.CrossEntropy(device, logits, targets, losses, (scale, smoothing), wantsGradient: true);
            Close(expected.detach(), losses, 1e-5);
            Close(leaf.grad!, logits, tolerance);
        }
    });

    [SkippableFact]
    public void A_training_takes_the_same_steps_by_them()
    {
        var expected = Losses();
        EmulatedKernels.Use(kernels =>
        {
            var found = Losses();
            Assert.All(expected.Zip(found), static pair => Assert.Equal(pair.First, pair.Second, 1e-4));
            Assert.All((string[])["rms_norm", "rms_norm_gradient", "turn", "gated", "gated_gradient", "cross_entropy"], kernel => Assert.True(kernels.Launches.GetValueOrDefault(kernel) > 0, kernel));
        });

        static IReadOnlyList<double> Losses()
        {
            using var model = TinyLlama.Create();
            model.AddAdapter(new LoraConfig { Rank = 4, Alpha = 8, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, "default", 1);
            return new Trainer(new TrainingRequest
            {
                Model = model,
                AdapterName = "default",
                Data = new SameRow(),
                Options = new TrainingOptions { LearningRate = 1e-2, Epochs = 4 },
            }).Train().Losses;
        }
    }

    private sealed class SameRow : ITrainingData
    {
        public int Count => 2;

        public string Fingerprint => "same";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
        {
            var ids = arange(24, ScalarType.Int64).mul_(5).remainder_(40).add_(3).view(2, 12);
            return new TrainingBatch(ids, ids.clone()) { TokenCount = 24, TargetCount = 22 };
        }
    }

    private static void Close(Tensor expected, Tensor found, double tolerance) =>
        TensorAssert.CloseToScale(expected.to(ScalarType.Float32), found.to(ScalarType.Float32), tolerance, "values");
}
