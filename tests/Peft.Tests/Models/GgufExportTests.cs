using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Models;
using Peft.Models.Gguf;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Peer;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>GGUF files as they are written: read by llama.cpp and by ourselves, they give the model's own logits.</summary>
public sealed class GgufExportTests : IDisposable
{
    private static readonly int[] s_ids = [5, 17, 3, 40, 22, 9, 61, 12];

    private readonly TemporaryFolder _folder = new();
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose()
    {
        _scope.Dispose();
        _folder.Dispose();
    }

    [GoldenTheory]
    [GoldenData("gguf", "quantise")]
    public void Blocks_are_those_of_the_formats_own_package(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        using var file = GgufFile.Open(Path.Combine(folder, "model.gguf"));
        using var reference = SafetensorsFile.Open(Path.Combine(folder, "reference.safetensors"));
        var values = reference.Read("values").data<float>().ToArray();
        var bytes = File.ReadAllBytes(Path.Combine(folder, "model.gguf"));
        foreach (var tensor in file.Tensors.Values.Where(static tensor => tensor.Type.Writer is not null))
        {
            Assert.Equal(bytes.AsSpan((int)tensor.Offset, (int)tensor.Length).ToArray(), GgufWriter.Quantized(values, tensor.Type));
        }
    });

    [Theory]
    [InlineData("Q4_K", 0.09)]
    [InlineData("Q5_K", 0.05)]
    [InlineData("Q6_K", 0.025)]
    public void Blocks_of_256_lose_as_little_as_their_bits_allow(string name, double share)
    {
        var values = randn(64, 512).mul_(0.02);
        values[3] = zeros(512);
        var type = GgufType.Named(name);
        var bytes = GgufWriter.Quantized(values.data<float>().ToArray(), type);
        var back = new float[values.NumberOfElements];
        for (var block = 0; block < back.Length / type.BlockValues; block++)
        {
            type.Reader!(bytes.AsSpan(block * type.BlockBytes, type.BlockBytes), back.AsSpan(block * type.BlockValues, type.BlockValues));
        }

        var difference = tensor(back).view(values.shape) - values;
        Assert.Equal(0, difference[3].abs().max().item<float>());
        Assert.True(difference.square().mean().sqrt().item<float>() < share * 0.02, $"{difference.square().mean().sqrt().item<float>()}");
    }

    [Theory]
    [InlineData("Q4_K")]
    [InlineData("Q5_K")]
    [InlineData("Q6_K")]
    public void Blocks_lose_less_where_it_counts_when_that_is_known(string name)
    {
        var type = GgufType.Named(name);
        var values = randn(32, 512).mul_(0.02);
        var importance = randn(512).mul_(2).exp_();
        var given = values.data<float>().ToArray();
        var (usual, weighted) = (Error(GgufWriter.Quantized(given, type)), Error(GgufWriter.Quantized(given, type, importance.data<float>().ToArray())));
        Assert.True(weighted < 0.9 * usual, $"{weighted} of {usual}");

        double Error(byte[] bytes)
        {
            var back = new float[given.Length];
            for (var block = 0; block < back.Length / type.BlockValues; block++)
            {
                type.Reader!(bytes.AsSpan(block * type.BlockBytes, type.BlockBytes), back.AsSpan(block * type.BlockValues, type.BlockValues));
            }

            return (tensor(back).view(values.shape) - values).square().mul(importance).mean().item<float>();
        }
    }

    [Fact]
    public void A_data_set_says_which_inputs_count()
    {
        using var model = PeftModel.Load(PocketLlama.Folder);
        var data = TrainingDataset.FromRows([Row("Question: What is the capital of Texas?\nAnswer: Austin"), Row("Question: What is the capital of Ohio?\nAnswer: Columbus")]).Tokenize(model.RequiredTokenizer, new TokenizationOptions());
        var importance = ColumnImportance.Measure(model, data);
        var layers = model.Base.Descendants().OfType<Linear>().Where(static layer => layer.Weight.IsOwner).ToArray();
        Assert.All(layers, layer => Assert.Equal(layer.Inputs, importance[layer.Path + ".weight"].Length));
        Assert.All(importance.Values, static squares => Assert.All(squares, static square => Assert.True(square >= 0 && float.IsFinite(square))));
        var (plain, calibrated) = (Path.Combine(_folder.Path, "a.gguf"), Path.Combine(_folder.Path, "b.gguf"));
        model.SaveGguf(plain, "Q4_K_M");
        model.SaveGguf(calibrated, "Q4_K_M", importance: importance);
        Assert.Equal(new FileInfo(plain).Length, new FileInfo(calibrated).Length);
        using var read = PeftModel.Load(calibrated);
        Close(Logits((CausalModel)read.Base, s_ids), LlamaCpp.Logits(calibrated, s_ids), 2e-2);

        static Dictionary<string, object?> Row(string text) => new() { ["text"] = text };
    }

    [Theory]
    [InlineData("F32")]
    [InlineData("F16")]
    [InlineData("BF16")]
    [InlineData("Q8_0")]
    [InlineData("Q6_K")]
    [InlineData("Q5_K_M")]
    [InlineData("Q5_1")]
    [InlineData("Q5_0")]
    [InlineData("Q4_K_M")]
    [InlineData("Q4_1")]
    [InlineData("Q4_0")]
    public void A_file_of_a_type_is_read_by_llama_cpp_and_by_us_alike(string type)
    {
        using var model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        var file = Path.Combine(_folder.Path, "model.gguf");
        Assert.Equal([file, Path.Combine(_folder.Path, "Modelfile")], model.SaveGguf(file, type));
        using var read = PeftModel.Load(file);
        var ours = Logits((CausalModel)read.Base, s_ids);
        var theirs = LlamaCpp.Logits(file, s_ids);
        Close(ours, theirs, type[0] is 'Q' or 'B' ? 2e-2 : 1e-3);

        // It rounds activations as well where weights are: single logits of a model as small as this one differ by up to 1.4 % of their range, the mean by far less.
        var mean = (ours - tensor(theirs.SelectMany(static row => row).ToArray()).view(ours.shape)).square().mean().sqrt();
        Assert.True(mean.item<float>() <= 5e-3 * (ours.max() - ours.min()).item<float>());

        // What the types lose on the way: the plain ones next to nothing.
        var loss = (ours - Logits((CausalModel)model.Base, s_ids)).abs().max().item<float>();
        var most = type switch { "F32" => 1e-4, "F16" => 0.05, "BF16" => 0.5, "Q8_0" => 0.5, _ => 12 };
        Assert.True(loss <= most, $"{loss} with {type}");
    }

    [Fact]
    public void Texts_are_the_same_tokens_there()
    {
        using var model = PeftModel.Load(PocketLlama.Folder);
        var file = Path.Combine(_folder.Path, "model.gguf");
        model.SaveGguf(file, "F16");
        using var back = PeftModel.Load(file);
        foreach (var text in new[] { "Question: What is the capital of Texas?\nAnswer:", "  two  blanks, 1234 and it's über-naïve", "<|user|>\nHello<|assistant|>\n", "日本語 🙂" })
        {
            var wanted = model.Tokenizer!.EncodeIds(text);
            Assert.Equal(wanted, LlamaCpp.Tokens(file, text));
            Assert.Equal(wanted, back.Tokenizer!.EncodeIds(text));
        }

        Assert.Equal(model.Tokenizer!.ChatTemplates.Source("default"), back.Tokenizer!.ChatTemplates.Source("default"));
    }

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void A_family_is_computed_alike_by_llama_cpp_or_refused_by_name(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = PeftModel.Load(Computable(folder));
        var messages = new List<string>();
        var file = Path.Combine(_folder.Path, "model.gguf");
        if (!IsWritten(model, file, messages))
        {
            return;
        }

        var ids = Ids(model, messages);
        var ours = Logits((CausalModel)model.Base, ids);
        Close(ours, LlamaCpp.Logits(file, ids), 1e-3);
        using var read = PeftModel.Load(file);
        Close(ours, Rows(Logits((CausalModel)read.Base, ids)), 1e-4);
    });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void Experts_whose_gates_stand_in_one_tensor_with_what_they_gate_are_read(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = PeftModel.Load(Computable(folder));
        var messages = new List<string>();
        var file = Path.Combine(_folder.Path, "model.gguf");
        if (!IsWritten(model, file, messages) || !Fuse(model, file))
        {
            return;
        }

        var ids = Ids(model, messages);
        var ours = Logits((CausalModel)model.Base, ids);
        using var read = PeftModel.Load(file);
        Close(ours, Rows(Logits((CausalModel)read.Base, ids)), 1e-4);

        // This llama.cpp reads them so in these; later ones in more.
        if (new GgufTree(model.Base).Map.Architecture is "deepseek2" or "qwen35moe")
        {
            Close(ours, LlamaCpp.Logits(file, ids), 1e-3);
        }
    });

    [Theory]
    [MemberData(nameof(Others))]
    public void A_model_is_computed_alike_by_llama_cpp(string name, string json)
    {
        using var model = Random(name, json);
        var file = Path.Combine(_folder.Path, "model.gguf");
        model.SaveGguf(file, "F32");
        var ours = Logits((CausalModel)model.Base, s_ids);
        Close(ours, LlamaCpp.Logits(file, s_ids), 1e-3);
        using var read = PeftModel.Load(file);
        Close(ours, Rows(Logits((CausalModel)read.Base, s_ids)), 1e-4);
    }

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void An_adapter_acts_alike_in_llama_cpp(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = PeftModel.Load(Computable(folder));
        var messages = new List<string>();
        var (file, adapterFile) = (Path.Combine(_folder.Path, "model.gguf"), Path.Combine(_folder.Path, "adapter.gguf"));
        if (!IsWritten(model, file, messages))
        {
            return;
        }

        ActsAlike(model, file, adapterFile, Ids(model, messages));
    });

    [Theory]
    [MemberData(nameof(Others))]
    public void An_adapter_of_a_model_acts_alike_in_llama_cpp(string name, string json)
    {
        using var model = Random(name, json);
        var file = Path.Combine(_folder.Path, "model.gguf");
        model.SaveGguf(file, "F32");
        ActsAlike(model, file, Path.Combine(_folder.Path, "adapter.gguf"), s_ids);
    }

    private void ActsAlike(PeftModel model, string file, string adapterFile, int[] ids)
    {
        var causal = (CausalModel)model.Base;
        var tree = new GgufTree(causal);
        string[] targets =
        [
            .. causal.Backbone.Descendants().OfType<Linear>()
                .Where(layer => tree.TryFind(layer.Path + ".weight", layer.Weight, layer)?.Name is { HasAdapters: true, Layout.HasFactors: true })
                .Select(static layer => layer.Path[^(layer.Path.Length - layer.Path.LastIndexOf('.', layer.Path.LastIndexOf('.') - 1) - 1)..]).Distinct(),
        ];
        string[] parameters =
        [
            .. causal.NamedWeights().Where(named => named.Module.AdaptableOf(named.Parameter) is Router or { Experts: > 1 })
                .Where(named => tree.TryFind(named.Path, named.Parameter, named.Module)?.Name is { HasAdapters: true, Layout.HasFactors: true })
                .Select(static named => Regex.Replace(named.Path, @"^.*?\.\d+\.", "")).Distinct(),
        ];
        var isTied = GgufExport.IsTied(model.Base);

        // ggml looks GELU up in half precision, and Gemma 4's scores, which nothing scales, make much of it: with GELU rounded so here, it is 1e-3 with any adapter.
        var isGemma4 = causal.Backbone.Config.ModelType == "gemma4_text";
        var config = new LoraConfig
        {
            Rank = 3,
            Alpha = isGemma4 ? 1 : 5,
            TargetModules = ModuleNames.Of(isTied ? targets : [.. targets, causal.Backbone.TokenEmbeddings!.Path.Split('.')[^1], .. (string[])(tree.Map.HeadHasAdapters ? ["lm_head"] : [])]),
            TargetParameters = parameters.Length > 0 ? parameters : null,
            RankPattern = new Dictionary<string, int> { [targets[^1]] = 2 },
        };
        var bare = Logits(causal, ids);
        model.AddAdapter(config, "a", 1).Perturb(2);
        GgufAdapter.Save(model, "a", adapterFile);
        var ours = Logits(causal, ids, model.NewPass(new ForwardContext()));
        Assert.True((ours - bare).abs().max().item<float>() > 1e-2);
        Close(ours, LlamaCpp.Logits(file, ids, adapterFile), isGemma4 ? 3e-3 : 1e-3);
        if (isTied || !tree.Map.HeadHasAdapters)
        {
            model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of(!tree.Map.HeadHasAdapters ? "lm_head" : causal.Backbone.TokenEmbeddings!.Path.Split('.')[^1]) }, "b", 1);
            Assert.Equal("AdapterFormatNotSupported", Assert.Throws<NotSupportedByPeftException>(() => GgufAdapter.Save(model, "b", Path.Combine(_folder.Path, "b.gguf"))).ErrorId);
            Assert.False(File.Exists(Path.Combine(_folder.Path, "b.gguf")));
        }
    }

    [Theory]
    [InlineData("full_attention", "All layers have attention")]
    [InlineData("linear_attention", "All layers are recurrent")]
    public void A_hybrid_whose_layers_are_of_one_kind_is_written_with_a_warning(string kind, string wanted)
    {
        var document = JsonNode.Parse((string)Others().First(static row => (string)row[0] == "Qwen3.5")[1])!.AsObject();
        document["layer_types"] = new JsonArray([.. Enumerable.Repeat(kind, 4).Select(static name => (JsonNode)name)]);
        using var model = Random("one kind", document.ToJsonString());
        var messages = new List<string>();
        model.SaveGguf(Path.Combine(_folder.Path, "model.gguf"), "F32", onMessage: messages.Add);
        Assert.Contains(messages, message => message.StartsWith(wanted, StringComparison.Ordinal) && message.Contains("'qwen35'", StringComparison.Ordinal));
    }

    [Fact]
    public void Types_whose_blocks_fill_no_row_are_said_to_be_replaced()
    {
        using var model = Random("narrow", """{ "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 41, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4 }""");
        List<string> messages = [];
        var file = Path.Combine(_folder.Path, "model.gguf");
        model.SaveGguf(file, "Q4_K_M", onMessage: messages.Add);
        Assert.Contains(messages, static message => message.Contains("are Q5_0 instead of Q4_K", StringComparison.Ordinal) && message.Contains("blocks of 256 don't fill rows of 64", StringComparison.Ordinal) && message.Contains("blk.0.attn_q.weight", StringComparison.Ordinal));
        Assert.Contains(messages, static message => message.Contains("are Q8_0 instead of Q6_K", StringComparison.Ordinal));
        Assert.DoesNotContain(messages, static message => message.Contains("ffn_down", StringComparison.Ordinal));
        messages.Clear();
        model.SaveGguf(file, "Q8_0", onMessage: messages.Add);
        Assert.DoesNotContain(messages, static message => message.Contains("instead of", StringComparison.Ordinal));
    }

    [Fact]
    public void What_can_not_be_written_is_refused_before_anything_is()
    {
        using var model = PeftModel.Load(PocketLlama.Folder);
        var file = Path.Combine(_folder.Path, "model.gguf");
        Assert.Equal("GgufTypeNotSupported", Assert.Throws<NotSupportedByPeftException>(() => model.SaveGguf(file, "Q4_K_XL")).ErrorId);
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        Assert.Throws<OperationCanceledException>(() => model.SaveGguf(file, "F16", cancellation: cancelled.Token));
        Assert.Empty(Directory.GetFiles(_folder.Path));
    }

    /// <summary>Whether a model is written; one that isn't is refused by name, and nothing is left of it.</summary>
    private bool IsWritten(PeftModel model, string file, List<string> messages)
    {
        try
        {
            model.SaveGguf(file, "F32", onMessage: messages.Add);
            return true;
        }
        catch (NotSupportedByPeftException error)
        {
            Assert.Contains(error.ErrorId, (string[])["GgufArchitectureNotSupported", "GgufRotaryNotSupported", "GgufSettingNotSupported", "GgufTensorNotSupported"]);
            Assert.Empty(Directory.GetFiles(_folder.Path));
            return false;
        }
    }

    /// <summary>llama.cpp has no window for some families, and takes the factors of long texts for all of them, and says so.</summary>
    /// <summary>Writes a model with experts once more, as newer converters do; false where it has none that are apart.</summary>
    private static bool Fuse(PeftModel model, string file)
    {
        const string Gate = ".ffn_gate_exps.", Up = ".ffn_up_exps.", Both = ".ffn_gate_up_exps.";
        var (tree, types) = (new GgufTree(model.Base), GgufTypes.Named("F32"));
        List<(string Key, object Value)> metadata = [.. GgufExport.Metadata(tree, model.Base, model.Name, types), ("tokenizer.ggml.model", "no_vocab")];
        var apart = GgufExport.Tensors(tree, model.Base, metadata, types).ToLookup(static tensor => tensor.Name.Contains(Gate, StringComparison.Ordinal) || tensor.Name.Contains(Up, StringComparison.Ordinal));
        var ups = apart[true].ToDictionary(static tensor => tensor.Name);
        GgufOutput[] fused = [.. apart[true].Where(static tensor => tensor.Name.Contains(Gate, StringComparison.Ordinal)).Select(gate => new GgufOutput(
            gate.Name.Replace(Gate, Both, StringComparison.Ordinal),
            [gate.Shape[0], 2 * gate.Shape[1], .. gate.Shape.Skip(2)],
            gate.Type,
            () => cat([gate.Read(), ups[gate.Name.Replace(Gate, Up, StringComparison.Ordinal)].Read()], 1)))];
        GgufWriter.Write(file, metadata, [.. apart[false], .. fused]);
        return fused.Length > 0;
    }

    private static int[] Ids(PeftModel model, List<string> messages)
    {
        return Says("window") ? s_ids[..(int)model.Base.Config.RequiredInteger("sliding_window")] : Says("long texts") ? [.. s_ids, .. s_ids, .. s_ids] : s_ids;

        bool Says(string word) => messages.Exists(message => message.Contains(word, StringComparison.Ordinal));
    }

    /// <summary>Models as llama.cpp runs them, which the recorded ones of their families are not.</summary>
    public static TheoryData<string, string> Others() => new()
    {
        {
            "Qwen3.5", """
            {
                "model_type": "qwen3_5_text", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
                "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "tie_word_embeddings": false,
                "rope_parameters": { "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25, "rope_theta": 1000.0, "rope_type": "default" }
            }
            """
        },
        {
            "Qwen3.5-MoE whose layers stand otherwise", """
            {
                "model_type": "qwen3_5_moe_text", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
                "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": ["full_attention", "linear_attention", "linear_attention"],
                "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 14, "tie_word_embeddings": true,
                "rope_parameters": { "partial_rotary_factor": 0.5, "rope_theta": 1000.0, "rope_type": "default" }
            }
            """
        },
        {
            "ERNIE 4.5", """
            { "model_type": "ernie4_5", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "tie_word_embeddings": true }
            """
        },
        {
            "Granite 4.0 without recurrence", """
            {
                "model_type": "granitemoehybrid", "hidden_size": 24, "shared_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 0,
                "layer_types": ["attention", "attention"], "position_embedding_type": "rope", "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
                "residual_multiplier": 0.6, "tie_word_embeddings": true
            }
            """
        },
        {
            "Granite 4.0 without recurrence and with experts", """
            {
                "model_type": "granitemoehybrid", "hidden_size": 24, "intermediate_size": 16, "shared_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["attention", "attention"], "position_embedding_type": "rope", "attention_multiplier": 0.2,
                "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.6, "tie_word_embeddings": true
            }
            """
        },
        {
            "Ministral 3 whose YaRN is divided otherwise", """
            {
                "model_type": "ministral3", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": true,
                "rope_parameters": {
                    "rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.3, "llama_4_scaling_beta": 0.4, "original_max_position_embeddings": 4, "rope_theta": 100.0
                }
            }
            """
        },
        {
            "Gemma 4 without layers that share", """
            {
                "model_type": "gemma4_text", "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "global_head_dim": 8,
                "hidden_size_per_layer_input": 0, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4, "tie_word_embeddings": true,
                "rope_parameters": {
                    "full_attention": { "partial_rotary_factor": 0.25, "rope_theta": 1000.0, "rope_type": "proportional" },
                    "sliding_attention": { "rope_theta": 50.0, "rope_type": "default" }
                }
            }
            """
        },
    };

    private static PeftModel Random(string name, string json)
    {
        random.manual_seed(1);
        var document = JsonNode.Parse(json)!.AsObject();
        document["vocab_size"] = 64;
        var model = (CausalModel)ArchitectureRegistry.Create(new ModelConfig(document));
        foreach (var (path, parameter, _) in model.NamedWeights())
        {
            parameter.Assign(path.EndsWith("norm.weight", StringComparison.Ordinal) || path.EndsWith("layer_scalar", StringComparison.Ordinal)
                ? rand([.. parameter.Shape]).mul_(0.4).add_(0.8)
                : randn([.. parameter.Shape]).mul_(0.3));
        }

        model.Prepare();
        return new PeftModel(model, name);
    }

    /// <summary>A copy of a model with the settings that llama.cpp takes for granted in its architecture, and YaRN's usual bounds.</summary>
    private string Computable(string folder)
    {
        var document = JsonFile.ReadNode(Path.Combine(folder, "config.json"));
        var text = document["text_config"] as JsonObject ?? document;
        foreach (var setting in ArchitectureRegistry.Find((string)text["model_type"]!)?.Gguf?.Fixed ?? [])
        {
            if (text[setting.Key] is JsonValue own && !setting.Accepted.Any(accepted => JsonNode.DeepEquals(own, JsonValue.Create(accepted))))
            {
                var (before, value) = (Weights(document), own.DeepClone());
                text[setting.Key] = JsonValue.Create(setting.Accepted[0]);
                if (!Weights(document).SequenceEqual(before))
                {
                    text[setting.Key] = value;
                }
            }
        }

        text.Remove("no_rope_layers");
        foreach (var rope in new[] { text["rope_parameters"], text["rope_parameters"]?["full_attention"] }.OfType<JsonObject>())
        {
            _ = rope.Remove("beta_fast") | rope.Remove("beta_slow") | rope.Remove("truncate");
        }

        var copy = Directory.CreateDirectory(Path.Combine(_folder.Path, "copy")).FullName;
        File.Copy(Path.Combine(folder, "model.safetensors"), Path.Combine(copy, "model.safetensors"), overwrite: true);
        File.WriteAllText(Path.Combine(copy, "config.json"), document.ToJsonString());
        return copy;

        // A setting that the weights were made for stays; none are where the sizes contradict one another.
        static string[] Weights(JsonObject document)
        {
            try
            {
                return [.. ArchitectureRegistry.Create(new ModelConfig((JsonObject)document.DeepClone())).NamedParameters().Select(static named => $"{named.Path} [{string.Join(", ", named.Parameter.Shape)}]")];
            }
            catch (PeftException)
            {
                return [];
            }
        }
    }

    private static Tensor Logits(CausalModel model, int[] ids, ForwardContext? pass = null)
    {
        using var noGrad = no_grad();
        var context = pass ?? new ForwardContext();
        return model.Logits(model.Forward(tensor(ids.Select(static id => (long)id).ToArray(), [1, ids.Length]), context), context).to(ScalarType.Float32);
    }

    private static float[][] Rows(Tensor logits) => [.. Enumerable.Range(0, (int)logits.size(0)).Select(row => logits[row].data<float>().ToArray())];

    /// <summary>Within a share of the range of the logits.</summary>
    private static void Close(Tensor ours, float[][] theirs, double share)
    {
        var other = tensor(theirs.SelectMany(static row => row).ToArray()).view(ours.shape);
        var range = (ours.max() - ours.min()).item<float>();
        var difference = (ours - other).abs().max().item<float>();
        Assert.True(difference <= share * range, $"the largest difference is {difference}, the range of the logits {range}");
    }
}
