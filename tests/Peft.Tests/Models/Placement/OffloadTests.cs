using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Placement;
using Peft.Quantization;
using Peft.Tests.Quantization;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Models.Placement;

/// <summary>Models whose blocks lie on the disk, or elsewhere than on the device that computes.</summary>
[Collection(LiveTensors.Name)]
public sealed class OffloadTests : IDisposable
{
    private const string Shape = "\"vocab_size\": 41, \"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2";
    private static readonly LoraConfig s_config = new() { Rank = 2, TargetModules = ModuleNames.AllLinear };
    private readonly TemporaryFolder _folder = new();

    public static TheoryData<string, string> Families => new()
    {
        { "llama", $$"""{ "model_type": "llama", "architectures": ["LlamaForCausalLM"], {{Shape}} }""" },
        { "qwen2", $$"""{ "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": true, {{Shape}} }""" },
        { "gpt2", """{ "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 41, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64 }""" },
        { "mixtral", $$"""{ "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, {{Shape}} }""" },
        { "t5", """{ "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 41, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0 }""" },
    };

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(Families))]
    public void A_model_on_the_disk_computes_and_learns_what_it_does_in_memory(string family, string config)
    {
        Write(config);
        var (logits, loss, gradients) = Run(new LoadOptions());
        foreach (var request in (DeviceMapRequest[])[OnDisk(), OnDisk() with { AlwaysCopies = true }])
        {
            // A file may hold each expert on its own.
            Same((logits, loss, gradients), Run(new LoadOptions { DeviceMap = family == "mixtral" ? request with { OffloadFolder = _folder["weights"] } : request }));
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void So_does_one_that_is_quantised_on_the_way_there_or_was(bool atLoad)
    {
        Write((string)((object[])Families.First())[1]);
        var config = new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, BlockSize = 64, UseDoubleQuant = true };
        if (!atLoad)
        {
            using var model = PeftModel.Load(_folder.Path);
            ModelQuantizer.Quantize(model.Base, config);
            model.Save(_folder["quantised"]);
        }

        LoadOptions Options(DeviceMapRequest? map) => new() { Packing = atLoad ? new ModelQuantizer(config) : null, DeviceMap = map };
        var path = atLoad ? _folder.Path : _folder["quantised"];
        var map = OnDisk() with { OffloadFolder = _folder["weights"] };
        var expected = Run(Options(null), path);
        foreach (var request in (DeviceMapRequest[])[map, map with { AlwaysCopies = true }])
        {
            Same(expected, Run(Options(request), path));
            Assert.Empty(Directory.GetFileSystemEntries(_folder["weights"]));
        }
    }

    public static TheoryData<string> PackedKinds => [.. PackedForms.Kinds];

    [Theory]
    [MemberData(nameof(PackedKinds))]
    public void So_does_one_whose_files_hold_packed_weights_of_other_methods(string kind)
    {
        Write((string)((object[])Families.First())[1]);
        using (var model = PeftModel.Load(_folder.Path))
        {
            PackedForms.Pack(model.Base, kind);
            model.Save(_folder["quantised"]);
        }

        var expected = Run(new LoadOptions(), _folder["quantised"]);
        foreach (var request in (DeviceMapRequest[])[OnDisk(), OnDisk() with { AlwaysCopies = true }])
        {
            Same(expected, Run(new LoadOptions { DeviceMap = request with { OffloadFolder = _folder["weights"] } }, _folder["quantised"]));
            Assert.True(!Directory.Exists(_folder["weights"]) || Directory.GetFileSystemEntries(_folder["weights"]).Length == 0);
        }
    }

    [Fact]
    public void Weights_of_another_type_need_a_folder_which_is_empty_again_afterwards()
    {
        Write((string)((object[])Families.First())[1]);
        var options = new LoadOptions { DataType = ScalarType.BFloat16, DeviceMap = OnDisk() };
        Assert.Equal("OffloadFolderMissing", Assert.Throws<PeftException>(() => PeftModel.Load(_folder.Path, options)).ErrorId);
        var request = OnDisk() with { OffloadFolder = _folder["weights"] };
        using (var model = PeftModel.Load(_folder.Path, options with { DeviceMap = request }))
        {
            Assert.Equal(ScalarType.BFloat16, model.DataType);
            Assert.NotEmpty(Directory.GetFileSystemEntries(_folder["weights"]));
            Assert.True(ModelRun.Logits(model, TinyLlama.Inputs()).isfinite().all().item<bool>());
        }

        Assert.Empty(Directory.GetFileSystemEntries(_folder["weights"]));
    }

    [Fact]
    public void What_a_killed_process_left_goes_with_the_next_one_and_what_a_living_one_has_stays()
    {
        Write((string)((object[])Families.First())[1]);
        var (dead, living, strange) = (Left("peft-dead", "0.dat"), Left("peft-living", "0.dat"), Left("peft-strange", "notes.txt"));
        Directory.CreateDirectory(_folder["weights/peft-without-a-lock"]);
        using (new FileStream(Path.Combine(living, ".lock"), FileMode.Open, FileAccess.ReadWrite, FileShare.None))
        {
            using var model = PeftModel.Load(_folder.Path, new LoadOptions { DataType = ScalarType.BFloat16, DeviceMap = OnDisk() with { OffloadFolder = _folder["weights"] } });
            Assert.False(Directory.Exists(dead));
            Assert.True(Directory.Exists(living) && Directory.Exists(strange));
            Assert.Equal(4, Directory.GetDirectories(_folder["weights"]).Length);
        }

        string Left(string name, string file)
        {
            var folder = Directory.CreateDirectory(_folder[Path.Combine("weights", name)]).FullName;
            File.WriteAllText(Path.Combine(folder, ".lock"), "");
            File.WriteAllText(Path.Combine(folder, file), "1");
            return folder;
        }
    }

    [Fact]
    public void What_would_change_offloaded_weights_says_what_to_do_instead()
    {
        Write((string)((object[])Families.First())[1]);
        using var model = PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = OnDisk() });
        model.AddAdapter(s_config, "a", 1).Perturb(2);
        foreach (var change in (Action[])[() => model.Merge(), () => model.AddAdapter(s_config with { Initialisation = "pissa" }, "b", 1), () => ModelQuantizer.Quantize(model.Base, new QuantizationConfig { LoadIn4Bit = true }), () => model.Base.FindParameter("model.layers.0.mlp.up_proj.weight")!.Gradient = zeros(1)])
        {
            var error = Assert.Throws<PeftException>(change);
            Assert.Equal("WeightsOffloaded", error.ErrorId);
            Assert.Contains("Merge-LoraAdapter -Path", error.RecommendedAction, StringComparison.Ordinal);
        }

        Assert.True(ModelRun.Logits(model, TinyLlama.Inputs()).isfinite().all().item<bool>());
    }

    [Fact]
    public void It_is_exported_whole()
    {
        Write((string)((object[])Families.First())[1]);
        using (var model = PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = OnDisk() }))
        {
            model.Save(_folder["out"]);
        }

        Same(Run(new LoadOptions()), Run(new LoadOptions(), _folder["out"]));
    }

    [Theory]
    [InlineData("model.layers=cpu,model.norm=cpu,lm_head=cpu", "DeviceMapIncomplete", "model.embed_tokens")]
    [InlineData("=cpu,model.norm=cpu,model.norm=disk", "DeviceMapInvalid", "model.norm")]
    [InlineData("=cpu,=disk", "DeviceMapInvalid", "")]
    [InlineData("=cpu,model.layer.0=disk", "DeviceMapInvalid", "model.layer.0")]
    [InlineData("=cuda:0,lm_head=cpu", "DeviceMapNotSupported", "lm_head.weight")]
    [InlineData("=cuda:0,lm_head=cuda:1", "DeviceMapNotSupported", "cuda:1")]
    public void A_map_that_can_not_be_followed_is_refused_by_name(string map, string id, string named)
    {
        Write((string)((object[])Families.First())[1]);
        (string, string)[] table = [.. map.Split(',').Select(static row => (row[..row.IndexOf('=', StringComparison.Ordinal)], row[(row.IndexOf('=', StringComparison.Ordinal) + 1)..]))];
        var error = Assert.ThrowsAny<PeftException>(() => PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = new DeviceMapRequest { Table = table } }));
        Assert.Equal((id, named), (error.ErrorId, error.Target));
    }

    [Fact]
    public void A_limit_below_the_largest_part_is_refused_and_one_above_it_is_planned_within()
    {
        Write((string)((object[])Families.First())[1]);
        LoadOptions Limited(long bytes) => new() { DeviceMap = new DeviceMapRequest { MaxMemory = [("cpu", bytes)] } };
        Assert.Equal("MaxMemoryExceeded", Assert.Throws<PeftException>(() => PeftModel.Plan(_folder.Path, Limited(1000))).ErrorId);
        var all = PeftModel.Plan(_folder.Path, Limited(1L << 30));
        Assert.Equal(("", "cpu"), (all[0].Module, all[0].Device));
        var half = PeftModel.Plan(_folder.Path, Limited(all[0].Bytes * 2 / 3));
        Assert.Equal(all[0].Bytes, half.Sum(static row => row.Bytes));
        Assert.Contains(half, static row => row.Device == "disk");
        Assert.True(half.Where(static row => row.Device == "cpu").Sum(static row => row.Bytes) is > 0 and var resident && resident < all[0].Bytes * 2 / 3);
    }

    [Fact]
    public void What_a_pass_brought_here_is_gone_after_it()
    {
        Write((string)((object[])Families.First())[1]);
        using var model = PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = OnDisk() with { AlwaysCopies = true } });
        var adapter = model.AddAdapter(s_config, "a", 1);
        var inputs = TinyLlama.Inputs();
        for (var pass = 0; pass < 2; pass++)
        {
            LiveTensors.Settle();
            var before = Tensor.TotalCount;
            using (NewDisposeScope())
            {
                ModelRun.Logits(model, inputs);
                foreach (var gradient in ModelRun.Backward(model, adapter, inputs).Gradients.Values)
                {
                    gradient.Dispose();
                }
            }

            Assert.True(pass == 0 || before == Tensor.TotalCount, $"{Tensor.TotalCount - before} tensors");
        }
    }

    [Fact]
    public void A_block_that_can_not_be_brought_here_whole_lies_where_it_lay()
    {
        Write((string)((object[])Families.First())[1]);
        using var model = PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = OnDisk() with { AlwaysCopies = true } });
        var block = model.Base.Find("model.layers.1")!.NamedParameters().Select(static named => named.Parameter).ToArray();
        Tensor[] home = [.. block.Select(static parameter => parameter.Value!)];
        home[^1].Dispose();
        for (var pass = 0; pass < 2; pass++)
        {
            LiveTensors.Settle();
            var before = Tensor.TotalCount;
            using (NewDisposeScope())
            {
                Assert.ThrowsAny<Exception>(() => ModelRun.Logits(model, TinyLlama.Inputs()));
            }

            Assert.All(block.Zip(home), static pair => Assert.Same(pair.Second, pair.First.Value));
            Assert.True(pass == 0 || before == Tensor.TotalCount, $"{Tensor.TotalCount - before} tensors");
        }
    }

    [Fact]
    public void A_file_of_offloaded_weights_that_is_written_over_ends_in_an_error_whatever_computes()
    {
        Write((string)((object[])Families.First())[1]);
        DeviceMapRequest[] requests = [OnDisk(), new DeviceMapRequest { Table = [("", "meta"), ("model.layers", DeviceMapRequest.Disk)] }, new DeviceMapRequest { Table = [("", "meta"), ("model.layers", DeviceMapRequest.Cpu)] }];
        foreach (var request in requests)
        {
            using var model = PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = request });
            model.Acquire("generating").Dispose();
            File.SetLastWriteTimeUtc(_folder["model.safetensors"], File.GetLastWriteTimeUtc(_folder["model.safetensors"]).AddSeconds(5));
            Assert.Equal("FileChanged", Assert.Throws<PeftException>(() => model.Acquire("generating")).ErrorId);
        }
    }

    private static DeviceMapRequest OnDisk() => new() { Table = [("", DeviceMapRequest.Disk)] };

    private static void Same((Tensor Logits, double Loss, Dictionary<string, Tensor> Gradients) expected, (Tensor Logits, double Loss, Dictionary<string, Tensor> Gradients) found)
    {
        TensorAssert.Close(expected.Logits, found.Logits, 1e-4, 1e-4);
        Assert.Equal(expected.Loss, found.Loss, 1e-4);
        foreach (var (key, gradient) in expected.Gradients)
        {
            TensorAssert.Close(gradient, found.Gradients[key], 1e-4, 1e-4);
        }
    }

    private (Tensor Logits, double Loss, Dictionary<string, Tensor> Gradients) Run(LoadOptions options, string? path = null)
    {
        using var model = PeftModel.Load(path ?? _folder.Path, options);
        Assert.Equal(options.DeviceMap is not null, model.Base.NamedParameters().All(static named => named.Parameter.IsOffloaded));
        var adapter = model.AddAdapter(s_config, "a", 1).Perturb(2);
        var inputs = TinyLlama.Inputs();
        var (loss, gradients) = ModelRun.Backward(model, adapter, inputs);
        return (ModelRun.Logits(model, inputs), loss, gradients);
    }

    private void Write(string config)
    {
        using var noGradients = no_grad();
        using var generator = new Generator(3);
        using var model = new PeftModel(ArchitectureRegistry.Create(ModelConfig.FromText(config)), "written");
        model.Base.Prepare();
        foreach (var (_, parameter, _) in model.Base.NamedWeights().Where(static named => named.Parameter.IsOwner))
        {
            var values = empty([.. parameter.Shape]).normal_(0, parameter.Shape.Count == 1 ? 0.2 : 0.3, generator);
            parameter.Assign(parameter.Shape.Count == 1 && parameter.Name == "weight" ? values.add_(1) : values);
        }

        model.Save(_folder.Path);
    }
}
