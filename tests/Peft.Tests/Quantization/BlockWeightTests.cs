using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Gguf;
using Peft.Models.Heads;
using Peft.Quantization.Blocks;
using Peft.Tensors.Gguf;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Blocks of a GGUF file as weights: they compute as the values do that they stand for.</summary>
public sealed class BlockWeightTests : TensorFileTests
{
    public static TheoryData<string, ScalarType> Types()
    {
        TheoryData<string, ScalarType> types = [];
        foreach (var name in (string[])["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
        {
            types.Add(name, ScalarType.Float32);
            types.Add(name, ScalarType.BFloat16);
        }

        return types;
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void One_row_gives_what_it_gives_among_several(string name, ScalarType type) => SameRow(name, type, inputs: 768, outputs: 37);

    [Theory]
    [MemberData(nameof(Types))]
    public void So_does_a_longer_row(string name, ScalarType type) => SameRow(name, type, inputs: 4352, outputs: 70);

    private static void SameRow(string name, ScalarType type, long inputs, long outputs)
    {
        using var noGradients = no_grad();
        var values = randn(outputs, inputs).mul_(0.02);
        values[3] = zeros(inputs);
        using var weight = Weight(values, GgufType.Named(name));
        var x = randn(1, inputs).to(type);
        var y = empty([1, outputs], type);
        Assert.True(weight.RowProduct(x, y));
        var expected = x.to(ScalarType.Float32).mm(Values(weight).t());
        TensorAssert.CloseToScale(expected, y.to(ScalarType.Float32), type == ScalarType.BFloat16 ? 8e-3 : 1e-5);
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void Values_are_the_formats_own_bit_for_bit(string name, ScalarType type)
    {
        using var noGradients = no_grad();
        var format = GgufType.Named(name);
        var bytes = GgufWriter.Quantized(randn(33, 512).mul_(3).data<float>().ToArray(), format);
        var expected = new float[33 * 512];
        for (var block = 0; block < expected.Length / format.BlockValues; block++)
        {
            format.Reader!(bytes.AsSpan(block * format.BlockBytes, format.BlockBytes), expected.AsSpan(block * format.BlockValues, format.BlockValues));
        }

        using var weight = BlockWeight.Of(new GgufPacked(format, tensor(bytes).view(33, -1), ScalarType.Float32), new UnpackBuffer(), isTransposed: false, CPU);
        var found = empty([33, 512], type);
        weight.Unpack(found);
        Assert.True(tensor(expected).view(33, 512).to(type).eq(found).all().item<bool>());
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void A_row_of_four_bit_floats_gives_what_it_gives_among_several(ScalarType type)
    {
        using var noGradients = no_grad();
        var bytes = randint(0, 256, [37, 24, 17], ScalarType.Byte);
        bytes.select(-1, 0).copy_(randint(118, 124, [37, 24], ScalarType.Byte));
        bytes[0, 0, 0] = 1;
        using var weight = BlockWeight.Of(new GgufPacked(GgufType.Named("MXFP4"), bytes.view(37, -1), ScalarType.Float32), new UnpackBuffer(), isTransposed: false, CPU);
        var x = randn(1, 768).to(type);
        var y = empty([1, 37], type);
        Assert.True(weight.RowProduct(x, y));
        TensorAssert.CloseToScale(x.to(ScalarType.Float32).mm(Values(weight).t()), y.to(ScalarType.Float32), type == ScalarType.BFloat16 ? 8e-3 : 1e-5);
    }

    [GoldenTheory]
    [GoldenData("gguf", "quantise")]
    public void Every_type_of_block_is_unpacked(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        using var noGradients = no_grad();
        using var file = GgufFile.Open(Path.Combine(folder, "model.gguf"));
        foreach (var (name, stored) in file.Tensors.Where(static tensor => tensor.Value is { Type.Reader: not null, Entry.Shape.Count: 2 }))
        {
            using var weight = BlockWeight.Of(new GgufPacked(stored.Type, file.ReadBlocks(name), ScalarType.Float32), new UnpackBuffer(), isTransposed: false, CPU);
            Assert.True(file.Read(name).eq(Values(weight)).all().item<bool>(), name);
        }
    });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void A_family_computes_with_a_files_blocks_as_with_their_values(string path) => GoldenCases.Run("families", path, folder =>
    {
        var file = Path.Combine(Folder.Path, "model.gguf");
        try
        {
            using var model = PeftModel.Load(folder);
            model.SaveGguf(file, "Q8_0");
        }
        catch (NotSupportedByPeftException error) when (error.ErrorId.StartsWith("Gguf", StringComparison.Ordinal))
        {
            return;
        }

        using var plain = PeftModel.Load(file);
        using var kept = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true });
        Assert.Null(plain.Quantization);
        foreach (var ids in new[] { new long[,] { { 5, 17, 3, 40, 22 } }, new long[,] { { 9 } } })
        {
            TensorAssert.CloseToScale(Logits(plain, ids), Logits(kept, ids), 1e-4);
        }
    });

    [Theory]
    [InlineData("Q8_0")]
    [InlineData("Q4_K_M")]
    public void An_adapter_learns_and_merges_on_a_files_blocks(string type)
    {
        var file = Path.Combine(Folder.Path, "model.gguf");
        using (var model = PeftModel.Load(PocketLlama.Folder))
        {
            model.SaveGguf(file, type);
        }

        var config = new LoraConfig { Rank = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") };
        using var plain = PeftModel.Load(file);
        using var kept = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true });
        Assert.True(kept.MemoryBytes < 0.7 * plain.MemoryBytes, $"{kept.MemoryBytes} of {plain.MemoryBytes}");
        Dictionary<string, Tensor> inputs = new() { ["input_ids"] = tensor(new long[,] { { 5, 17, 3, 40, 22, 9, 61, 12 } }) };
        inputs["labels"] = inputs["input_ids"];
        var expected = ModelRun.Backward(plain, plain.AddAdapter(config, "a", 1).Perturb(2, 0.02), inputs);
        var adapter = kept.AddAdapter(config, "a", 1).Perturb(2, 0.02);
        var found = ModelRun.Backward(kept, adapter, inputs);
        Assert.Equal(expected.Loss, found.Loss, 1e-3);
        Assert.All(expected.Gradients, gradient => TensorAssert.CloseToScale(gradient.Value, found.Gradients[gradient.Key], 1e-3, gradient.Key));

        var ids = new long[,] { { 5, 17, 3, 40 } };
        var adapted = Logits(kept, ids);
        kept.Merge();
        var merged = Logits(kept, ids);
        Assert.True((merged - adapted).abs().max().item<float>() < 0.1 * (adapted.max() - adapted.min()).item<float>());
        kept.UndoMerge();
        TensorAssert.CloseToScale(adapted, Logits(kept, ids), 1e-5);
        kept.Merge(options: new MergeOptions { Ground = MergeGround.Unpacked });
        TensorAssert.CloseToScale(adapted, Logits(kept, ids), 1e-4);
    }

    [Fact]
    public void Blocks_that_are_only_read_are_not_merged_into()
    {
        using var weight = BlockWeight.Of(new GgufPacked(GgufType.Named("IQ4_NL"), zeros(4, 18, dtype: ScalarType.Byte), ScalarType.Float32), new UnpackBuffer(), isTransposed: false, CPU);
        Assert.Equal("GgufTypeNotSupported", Assert.Throws<NotSupportedByPeftException>(() => weight.Repack(zeros(4, 32))).ErrorId);
    }

    private static BlockWeight Weight(Tensor values, GgufType type) => BlockWeight.Of(
        new GgufPacked(type, tensor(GgufWriter.Quantized(values.contiguous().data<float>().ToArray(), type)).view(values.size(0), -1), ScalarType.Float32), new UnpackBuffer(), isTransposed: false, CPU);

    private static Tensor Values(PackedWeight weight)
    {
        var values = empty([.. weight.Shape]);
        weight.Unpack(values);
        return values;
    }

    private static Tensor Logits(PeftModel model, long[,] ids)
    {
        using var noGradients = no_grad();
        var context = model.NewPass(new ForwardContext());
        var causal = (CausalModel)model.Base;
        return causal.Logits(causal.Forward(tensor(ids), context), context);
    }
}
