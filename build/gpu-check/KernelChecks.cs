using System.Diagnostics;
using System.Globalization;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Engine.Cuda;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Steps;
using Peft.Quantization;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Build.Gpu;

/// <summary>Kernels of our own beside the engine's operators, on the same device: the same numbers, and how much memory they read a second.</summary>
internal static class KernelChecks
{
    private const int Tokens = 6;
    private const int Rounds = 50;

    public static void Run(CheckMachine machine)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var kernels = KernelDevice.Of(ones([1], ScalarType.Float32, machine.Device));
        if (kernels is null)
        {
            Console.WriteLine($"  no kernels here: {CudaKernels.Failure}");
            CheckFailedException.Unless(!machine.IsGpu, "a GPU has kernels");
            return;
        }

        Families(machine);
        Types(machine);
        Rates(machine, kernels);
    }

    private static void Families(CheckMachine machine)
    {
        var (replayed, failed, families) = (0, new List<string>(), 0);
        foreach (var folder in Directory.GetDirectories(machine.At("golden", "families")).Where(static folder => File.Exists(Path.Combine(folder, "model.safetensors"))).Order(StringComparer.Ordinal))
        {
            using var scope = NewDisposeScope();
            using var loaded = ModelLoader.Load(folder, new LoadOptions { Device = machine.Device, DataType = ScalarType.Float32 });
            if (loaded is not CausalModel model || !model.Backbone.CanContinue(1, 16))
            {
                continue;
            }

            using var recorded = SafetensorsFile.Open(Path.Combine(folder, "io.safetensors"));
            var ids = recorded.Read("plain.input_ids").narrow(0, 0, 1).narrow(1, 0, 4).to(machine.Device);
            var (expected, _) = Continue(model, ids, isOff: true);
            var (found, replays) = Continue(model, ids, isOff: false);
            families++;
            replayed += replays > 0 ? 1 : 0;
            var (gap, scale) = (expected.sub(found).abs().max().ToDouble(), expected.abs().max().ToDouble());
            if (!(gap <= 1e-3 * scale))
            {
                failed.Add(FormattableString.Invariant($"{Path.GetFileName(folder)} by {gap / scale:G2}"));
            }
        }

        Console.WriteLine($"  {families} families continue a text, {replayed} by recorded steps");
        CheckFailedException.Unless(failed.Count == 0 && replayed > 20, $"recorded steps give other logits: {string.Join(", ", failed)}");
    }

    private static (Tensor Logits, long Replays) Continue(CausalModel model, Tensor ids, bool isOff)
    {
        using var cache = new ModelCache { Steps = { IsOff = isOff } };
        var all = new List<Tensor>();
        for (var token = 0; token < Tokens; token++)
        {
            var context = new ForwardContext { Cache = cache };
            all.Add(model.Logits(model.Forward(ids, context).LastPosition(), context).to(ScalarType.Float32));
            ids = full([1, 1], 3 + (token * 7), ScalarType.Int64, ids.device);
        }

        return (cat(all), cache.Steps.Replays);
    }

    private static void Types(CheckMachine machine)
    {
        foreach (var type in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16])
        {
            foreach (var packing in (ModelQuantizer?[])[null, new ModelQuantizer(new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = true })])
            {
                using var scope = NewDisposeScope();
                using var model = PeftModel.Load(machine.At("assets", "pocket-llama"), new LoadOptions { Device = machine.Device, DataType = type, Packing = packing });
                model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
                var causal = (CausalModel)model.Base;
                var ids = tensor(new long[,] { { 5, 6, 7, 8 } }, device: machine.Device);
                var (expected, _) = Continue(causal, ids, isOff: true);
                var (found, replays) = Continue(causal, ids, isOff: false);
                var gap = expected.sub(found).square().mean().sqrt().div(expected.square().mean().sqrt()).ToDouble();
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {type}{(packing is null ? "" : " over NF4")}: {replays} replays, relative difference {gap:G2}"));
                CheckFailedException.Unless(replays > 0 && gap < (type == ScalarType.Float32 ? 1e-4 : 3e-2), $"{type}: recorded steps give other logits");
            }
        }
    }

    private static void Rates(CheckMachine machine, KernelDevice kernels)
    {
        using var scope = NewDisposeScope();
        var made = new DeviceSteps(kernels);
        foreach (var (rows, width) in (ReadOnlySpan<(long, long)>)[(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (16, 4096)])
        {
            using var slice = NewDisposeScope();
            var (x, y) = (randn([1, width], ScalarType.BFloat16, machine.Device), empty([1, rows], ScalarType.BFloat16, machine.Device));
            var dense = randn([rows, width], ScalarType.BFloat16, machine.Device);
            using var operation = made.Product(x, y, new LinearSource(dense, null, null, []))![0];
            operation.RunAlone();
            Checks.Near(x.mm(dense.t()), y, 1e-2 * Math.Sqrt(width) * 4, $"product of {rows} x {width}");
            var line = Rate($"row of {rows} x {width} in bfloat16", dense.NumberOfElements * 2, operation.RunAlone);
            line += Rate("; by the engine", dense.NumberOfElements * 2, () => x.mm(dense.t()).Dispose());
            if (rows > 16)
            {
                using var packed = FourBitWeight.Quantize(dense, new FourBitOptions(FourBitType.NF4) { HasNestedScales = true }, new UnpackBuffer());
                var (unpacked, expected) = (empty([rows, width], ScalarType.BFloat16, machine.Device), empty([rows, width], ScalarType.BFloat16, machine.Device));
                packed.Unpack(unpacked);
                FourBitOperators.Unpack(new FourBitParts(packed.Type, packed.BlockSize, packed.Packed, packed.Scales, packed.NestedScales, packed.NestedOffset), expected, packed.DataType);
                CheckFailedException.Unless(unpacked.eq(expected).all().item<bool>(), "blocks are unpacked to other bits");
                CheckFailedException.Unless(packed.RowProduct(x, y), "there is no product with blocks");
                Checks.Near(x.mm(unpacked.t()), y, 1e-2 * Math.Sqrt(width) * 4, $"product with NF4 of {rows} x {width}");
                line += Rate("; NF4", packed.Bytes, () => packed.RowProduct(x, y));
                line += Rate("; unpacked", dense.NumberOfElements * 2, () => packed.Unpack(unpacked));
            }

            Console.WriteLine($"  {line}");
        }
    }

    private static string Rate(string what, long bytes, Action run)
    {
        run();
        Wait();
        var clock = Stopwatch.StartNew();
        for (var round = 0; round < Rounds; round++)
        {
            run();
        }

        Wait();
        var seconds = clock.Elapsed.TotalSeconds / Rounds;
        return string.Create(CultureInfo.InvariantCulture, $"{what} {seconds * 1e6:F0} us, {bytes / seconds / 1e9:F0} GB/s");
    }

    private static void Wait()
    {
        if (cuda.is_available())
        {
            cuda.synchronize();
        }
    }
}
