using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Models.Placement;
using Peft.Tensors.Gguf;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Quantization;

/// <summary>Experts as the blocks of a GGUF file: they compute as the values do that they stand for, and take what they take there.</summary>
public sealed class ExpertBlockTests : TensorFileTests
{
    private const string Sizes = "\"vocab_size\": 4096, \"hidden_size\": 256, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 64, \"num_experts_per_tok\": 2";
    private const string Mixtral = $$"""{ "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "intermediate_size": 512, {{Sizes}} }""";
    private const string Qwen = $$"""{ "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 6, "norm_topk_prob": true, "intermediate_size": 512, "moe_intermediate_size": 256, {{Sizes}} }""";
    private const string GptOss = $$"""{ "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 4, "intermediate_size": 256, "sliding_window": 4, {{Sizes}} }""";

    public static TheoryData<string, string> Cases()
    {
        TheoryData<string, string> cases = [];
        foreach (var config in (string[])[Mixtral, Qwen, GptOss])
        {
            cases.Add(config, "Q8_0");
            cases.Add(config, "Q4_K_M");
        }

        return cases;
    }

    /// <summary>As well as those whose gate and up are blocks of a type each.</summary>
    public static TheoryData<string, string> AllCases()
    {
        var cases = Cases();
        foreach (var config in (string[])[Mixtral, Qwen, GptOss])
        {
            cases.Add(config, "Q8_0/Q4_K_M");
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(AllCases))]
    public void They_stay_packed_and_give_the_logits_and_texts_of_their_values(string config, string type)
    {
        var file = Written(config, type);
        using var plain = PeftModel.Load(file);
        using var kept = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true });
        Assert.All(Experts(plain), static parameter => Assert.Null(parameter.Packed));
        Assert.All(Experts(kept), parameter => Assert.True(parameter.Bytes < (type.StartsWith("Q8_0", StringComparison.Ordinal) ? 0.27 : 0.21) * parameter.Count * 4, $"{parameter.Bytes} for {parameter.Count}"));
        Assert.Equal(kept.Base.NamedWeights().Where(static named => named.Parameter.IsOwner).Sum(static named => named.Parameter.Bytes), kept.MemoryBytes);
        Assert.All(Experts(plain).Zip(Experts(kept)), static pair => Assert.True(pair.First.Data.eq(pair.Second.Unpacked(ScalarType.Float32)).all().item<bool>(), pair.First.Name));

        // One row visits an expert, a few do, and more than are multiplied one by one.
        foreach (var length in (long[])[1, 5, 60])
        {
            var inputs = Inputs(length);
            TensorAssert.CloseToScale(ModelRun.Logits(plain, inputs), ModelRun.Logits(kept, inputs), 1e-4, $"{length} tokens");
        }

        IReadOnlyList<int>[] prompts = [[5, 17, 3, 40]];
        var options = new GenerationOptions { MaxNewTokens = 12 };
        Assert.Equal(new TextGenerator(plain).Generate(prompts, options)[0].TokenIds, new TextGenerator(kept).Generate(prompts, options)[0].TokenIds);
    }

    [Theory]
    [MemberData(nameof(AllCases))]
    public void Adapters_learn_and_merge_on_them(string config, string type)
    {
        var file = Written(config, type);
        var lora = new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj"), TargetParameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] };
        using var plain = PeftModel.Load(file);
        using var kept = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true });
        var inputs = Inputs(60);
        inputs["labels"] = inputs["input_ids"];
        var expected = ModelRun.Backward(plain, plain.AddAdapter(lora, "a", 1).Perturb(2, 0.05), inputs);
        var found = ModelRun.Backward(kept, kept.AddAdapter(lora, "a", 1).Perturb(2, 0.05), inputs);
        Assert.Equal(expected.Loss, found.Loss, 1e-4);
        Assert.Contains(found.Gradients.Keys, static key => key.Contains("experts", StringComparison.Ordinal));
        Assert.All(expected.Gradients, gradient => TensorAssert.CloseToScale(gradient.Value, found.Gradients[gradient.Key], 1e-3, gradient.Key));

        var bytes = kept.MemoryBytes;
        var adapted = ModelRun.Logits(kept, inputs);
        TensorAssert.CloseToScale(ModelRun.Logits(plain, inputs), adapted, 1e-4);
        kept.Merge();
        Assert.All(Experts(kept), static parameter => Assert.NotNull(parameter.Packed));
        kept.UndoMerge();
        Assert.Equal(bytes, kept.MemoryBytes);
        Assert.True(adapted.eq(ModelRun.Logits(kept, inputs)).all().item<bool>());
        kept.Merge(options: new MergeOptions { Ground = MergeGround.Unpacked });
        Assert.All(Experts(kept), static parameter => Assert.Null(parameter.Packed));
        TensorAssert.CloseToScale(adapted, ModelRun.Logits(kept, inputs), 1e-4);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void They_are_written_again_bit_for_bit_or_as_their_values(string config, string type)
    {
        var file = Written(config, type);
        var again = Path.Combine(Folder.Path, "again.gguf");
        using (var kept = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true }))
        {
            kept.SaveGguf(again, type);
            kept.Save(Path.Combine(Folder.Path, "plain"));
        }

        using var first = GgufFile.Open(file);
        using var second = GgufFile.Open(again);
        Assert.Equal(first.Tensors.Keys, second.Tensors.Keys);
        Assert.All(first.Tensors.Where(static tensor => tensor.Value.Type.Reader is not null), tensor =>
            Assert.True(first.ReadBlocks(tensor.Key).eq(second.ReadBlocks(tensor.Key)).all().item<bool>(), tensor.Key));
        Assert.All(first.Tensors.Where(static tensor => tensor.Key.EndsWith(".bias", StringComparison.Ordinal)), static tensor => Assert.Equal("F32", tensor.Value.Type.Name));
        using var unpacked = PeftModel.Load(file);
        using var saved = PeftModel.Load(Path.Combine(Folder.Path, "plain"));
        Assert.True(ModelRun.Logits(unpacked, Inputs(9)).eq(ModelRun.Logits(saved, Inputs(9))).all().item<bool>());
    }

    [Theory]
    [InlineData(Mixtral, "Q4_K_M")]
    [InlineData(GptOss, "Q4_K_M")]
    [InlineData(GptOss, "Q8_0/Q4_K_M")]
    public void They_stay_on_the_disk_packed(string config, string type)
    {
        var file = Written(config, type);
        var map = new DeviceMapRequest { Table = [("", DeviceMapRequest.Disk)], OffloadFolder = Path.Combine(Folder.Path, "weights") };
        using var kept = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true });
        using var offloaded = PeftModel.Load(file, new LoadOptions { KeepsBlocks = true, DeviceMap = map });
        Assert.All(Experts(offloaded), static parameter => Assert.True(parameter is { IsOffloaded: true, Packed: not null }));
        Assert.True(ModelRun.Logits(kept, Inputs(9)).eq(ModelRun.Logits(offloaded, Inputs(9))).all().item<bool>());
    }

    private static Dictionary<string, Tensor> Inputs(long length) => new() { ["input_ids"] = arange(length).mul(29).add(5).remainder(4096).unsqueeze(0) };

    private static IEnumerable<Parameter> Experts(PeftModel model) =>
        model.Base.NamedWeights().Where(static named => named.Module.AdaptableOf(named.Parameter) is ExpertWeight).Select(static named => named.Parameter);

    private string Written(string config, string type)
    {
        using var noGradients = no_grad();
        using var generator = new Generator(3);
        using var model = new PeftModel(ArchitectureRegistry.Create(ModelConfig.FromText(config)), "written");
        foreach (var (_, parameter, _) in model.Base.NamedWeights().Where(static named => named.Parameter.IsOwner))
        {
            var values = empty([.. parameter.Shape]).normal_(0, parameter.Shape.Count == 1 ? 0.2 : 0.08, generator);
            parameter.Assign(parameter.Shape.Count == 1 && parameter.Name == "weight" ? values.add_(1) : values);
        }

        model.Base.Prepare();
        var folder = Path.Combine(Folder.Path, "made");
        model.Save(folder);
        foreach (var name in (string[])["tokenizer.json", "tokenizer_config.json"])
        {
            File.Copy(Path.Combine(PocketLlama.Folder, name), Path.Combine(folder, name));
        }

        using var made = PeftModel.Load(folder);
        var types = type.Split('/');
        var files = types.Select((_, i) => Path.Combine(Folder.Path, $"model{i}.gguf")).ToArray();
        foreach (var (file, own) in files.Zip(types))
        {
            made.SaveGguf(file, own);
        }

        return files is [var first, var second] ? Mixed(first, second) : files[0];
    }

    /// <summary>A file with what gates are multiplied by from another.</summary>
    private string Mixed(string file, string other)
    {
        using var first = GgufFile.Open(file);
        using var second = GgufFile.Open(other);
        var mixed = Path.Combine(Folder.Path, "mixed.gguf");
        GgufWriter.Write(mixed, [.. first.Metadata.Select(static pair => (pair.Key, pair.Value))], [.. first.Names.Select(name =>
        {
            var from = name.Contains("_up_exps.weight", StringComparison.Ordinal) ? second : first;
            var (entry, type) = (from.Tensors[name].Entry, from.Tensors[name].Type);
            return new GgufOutput(name, entry.Shape, type, () => type.Reader is null ? from.Read(name) : from.ReadBlocks(name));
        })]);
        return mixed;
    }
}
