using System.Text.RegularExpressions;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Engine.Cuda;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Quantization;
using Peft.Tests.Adapters;
using Peft.Tests.Generation;
using Peft.Tests.Golden;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine.Cuda;

/// <summary>The GPU's kernels, emulated on the processor, beside what the processor computes.</summary>
public sealed partial class GpuKernelTests
{
    // Families whose blocks are surely recorded.
    private static readonly string[] s_recorded = ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma", "t5", "bart"];

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void Every_family_gives_the_same_logits(string path) => GoldenCases.Run("families", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = ModelLoader.Load(folder);
        using var recorded = Tensors(folder);
        if (model is not CausalModel causal || !recorded.Contains("plain.input_ids") || !causal.Backbone.CanContinue(1, 16))
        {
            return;
        }

        var ids = recorded.Read("plain.input_ids").narrow(0, 0, 1);
        ids = ids.narrow(1, 0, Math.Min(6, ids.size(1)));
        var (expected, _) = RecordedStepTests.Continue(causal, ids, 4, isOff: true);
        EmulatedKernels.Use(_ =>
        {
            var (found, replays) = RecordedStepTests.Continue(causal, ids, 4, isOff: false);
            TensorAssert.CloseToScale(expected, found, 1e-4, "logits");
            Assert.True(replays > 0 || !s_recorded.Contains(model.Config.ModelType), $"'{model.Config.ModelType}' was computed as ever.");
        });
    });

    // In float16 the processor has no kernels of our own, so that layers go by the engine's operators while they are recorded, as on a GPU.
    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void What_the_engines_operators_computed_is_recorded(string path) => GoldenCases.Run("families", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = ModelLoader.Load(folder, new LoadOptions { DataType = ScalarType.Float16 });
        if (model is not CausalModel causal || !s_recorded.Contains(model.Config.ModelType))
        {
            return;
        }

        using var recorded = Tensors(folder);
        var ids = recorded.Read("plain.input_ids").narrow(0, 0, 1).narrow(1, 0, 4);
        var (expected, _) = RecordedStepTests.Continue(causal, ids, 4, isOff: true);
        EmulatedKernels.Use(_ =>
        {
            var (found, replays) = RecordedStepTests.Continue(causal, ids, 4, isOff: false);
            Assert.True(replays > 0, $"'{model.Config.ModelType}' was computed as ever.");
            TensorAssert.CloseToScale(expected.to(ScalarType.Float32), found.to(ScalarType.Float32), 1e-2, "logits");
        });
    });

    [Fact]
    public void A_compiler_that_is_nowhere_is_no_error() => Assert.Null(Record.Exception(static () => CudaCompiler.Load()));

    [SkippableTheory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Adapters_act_in_a_recorded_step_and_round_no_more_than_the_engines_operators(ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Adapted(type, type);
        using var exact = Adapted(ScalarType.Float32, type);
        var tokens = type == ScalarType.Float32 ? 80 : 12;
        var right = Continue(exact, tokens).Logits;
        var allowed = Far(right, Continue(model, tokens).Logits);
        EmulatedKernels.Use(kernels =>
        {
            var (found, replays) = Continue(model, tokens, isOff: false);
            Assert.True(replays > 0);
            Assert.InRange(Far(right, found), 0, (1.5 * allowed) + (1e-5 * right.abs().max().item<float>()));
            Assert.All((string[])["row_product", "low_rank", "rms_norm", "activation_row", "rotate", "attend"], kernel => Assert.True(kernels.Launches.GetValueOrDefault(kernel) > 0, kernel));
        });
    }

    [SkippableTheory]
    [InlineData("nf4", ScalarType.Float32, 1e-4)]
    [InlineData("nf4-double", ScalarType.Float32, 1e-4)]
    [InlineData("nf4-double", ScalarType.BFloat16, 3e-2)]
    [InlineData("nf4", ScalarType.Float16, 5e-3)]
    public void Four_bit_weights_are_read_in_a_recorded_step(string form, ScalarType type, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = new PeftModel(RecordedStepTests.Wide(type), "wide");
        RecordedStepTests.Pack((CausalModel)model.Base, form);
        Same(model, 5, tolerance, "four_bit_product");
    }

    [SkippableTheory]
    [InlineData("nf4", 64, true, 96 * 128)]
    [InlineData("nf4", 32, false, 90_000)]
    [InlineData("fp4", 64, true, 1)]
    [InlineData("fp4", 128, false, (300 * 128) + 77)]
    [InlineData("nf4", 4096, true, 5000)]
    public void Four_bit_blocks_are_unpacked_to_the_bits_of_the_processors_kernel(string type, int blockSize, bool isNested, long count) => EmulatedKernels.Use(kernels =>
    {
        using var scope = NewDisposeScope();
        using var weight = FourBitWeight.Quantize(
            randn([1, count]).mul_(3).to(ScalarType.BFloat16), new FourBitOptions(FourBitType.Named(type)) { BlockSize = blockSize, HasNestedScales = isNested }, new UnpackBuffer());
        foreach (var target in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16])
        {
            var (expected, found) = (empty([count], target), empty([count], target));
            FourBitBlocks.Dequantize(weight.Packed, weight.DenseScales(), weight.Type, blockSize, expected, ScalarType.BFloat16);
            weight.Unpack(found);
            Assert.Equal(0, expected.to(ScalarType.Float32).sub(found.to(ScalarType.Float32)).abs().max().item<float>());
        }

        Assert.Equal(3, kernels.Launches["four_bit_unpack"]);
    });

    [SkippableTheory]
    [InlineData("nf4", 4096 + 32, 5, ScalarType.Float32, 1e-5)]
    [InlineData("fp4", 8192, 3, ScalarType.BFloat16, 1e-2)]
    [InlineData("nf4", 96, 65, ScalarType.Float16, 2e-3)]
    public void Products_with_four_bit_rows_of_any_width_are_those_of_the_unpacked_weight(string type, long width, long rows, ScalarType element, double tolerance) => EmulatedKernels.Use(_ =>
    {
        using var scope = NewDisposeScope();
        using var weight = FourBitWeight.Quantize(randn([rows, width]).to(element), new FourBitOptions(FourBitType.Named(type)) { BlockSize = 32 }, new UnpackBuffer());
        var (x, y, dense) = (randn([1, width]).to(element), empty([1, rows], element), empty([rows, width]));
        weight.Unpack(dense);
        Assert.True(weight.RowProduct(x, y));
        TensorAssert.CloseToScale(x.to(ScalarType.Float32).mm(dense.t()), y.to(ScalarType.Float32), tolerance, "product");
    });

    [Fact]
    public void Arguments_lie_as_the_kernels_read_them()
    {
        // Each struct of the source beside its twin: as many fields, in the same order, of the same sizes.
        var structs = StructPattern().Matches(CudaKernels.Source(null)).ToDictionary(static match => match.Groups[1].Value, static match => FieldPattern().Count(match.Groups[2].Value));
        var twins = typeof(KernelArguments).GetNestedTypes(System.Reflection.BindingFlags.Public | System.Reflection.BindingFlags.NonPublic)
            .Where(static type => type.GetFields().Length > 1 || type == typeof(KernelArguments.Copy)).ToList();
        Assert.Equal(structs.Count, twins.Count);
        Assert.Equal(structs.Values.Order(), twins.Select(static type => type.GetFields().Length).Order());
    }

    private static Peft.Tensors.TensorStore Tensors(string folder) => Peft.Tensors.TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));

    /// <summary>A model with two adapters whose weights are rounded to one type and computed with in another.</summary>
    private static PeftModel Adapted(ScalarType type, ScalarType rounded)
    {
        var model = TinyLlama.Create(bias: true);
        foreach (var (_, parameter, _) in model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            parameter.Assign(parameter.Data.to(rounded).to(type));
        }

        model.Base.Fuse();
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "v_proj", "down_proj") }, "first", 1).Perturb(2);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("v_proj", "gate_proj") }, "second", 1).Perturb(3);
        model.SetActive(["first", "second"]);
        return model;
    }

    private static double Far(Tensor one, Tensor other) => one.to(ScalarType.Float64).sub(other.to(ScalarType.Float64)).square().mean().sqrt().item<double>();

    private static (Tensor Logits, long Replays) Continue(PeftModel model, int tokens, bool isOff = true) =>
        RecordedStepTests.Continue((CausalModel)model.Base, RecordedStepTests.Prompt(), tokens, isOff, model);

    private static void Same(PeftModel model, int tokens, double tolerance, params string[] started)
    {
        var (expected, _) = Continue(model, tokens);
        EmulatedKernels.Use(kernels =>
        {
            var (found, replays) = Continue(model, tokens, isOff: false);
            Assert.True(replays > 0);
            TensorAssert.CloseToScale(expected.to(ScalarType.Float32), found.to(ScalarType.Float32), tolerance, "logits");
            Assert.All(started, kernel => Assert.True(kernels.Launches.GetValueOrDefault(kernel) > 0, kernel));
        });
    }

    [GeneratedRegex(@"struct (\w+)\s*\{(.*?)\};", RegexOptions.Singleline, matchTimeoutMilliseconds: 1000)]
    private static partial Regex StructPattern();

    [GeneratedRegex(@"\w+(\[\w+\])?;", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex FieldPattern();
}
