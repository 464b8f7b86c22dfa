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
using Peft.Tensors.Gguf;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Peer;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>GGUF files of every family, and of adapters on it: read by llama.cpp and by ourselves, they give the model's own logits.</summary>
public sealed class GgufFamilyTests : TensorFileTests
{
    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void A_family_is_computed_alike_by_llama_cpp_or_refused_by_name(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = PeftModel.Load(Computable(folder));
        var messages = new List<string>();
        var file = Path.Combine(Folder.Path, "model.gguf");
        if (!IsWritten(model, file, messages))
        {
            return;
        }

        var ids = Ids(model, messages);
        var ours = GgufLogits.Of((CausalModel)model.Base, ids);
        GgufLogits.Close(ours, LlamaCpp.Logits(file, ids), 1e-3);
        using var read = PeftModel.Load(file);
        GgufLogits.Close(ours, GgufLogits.Of((CausalModel)read.Base, ids), 1e-4);
    });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void A_scaling_of_positions_is_computed_alike_by_llama_cpp_or_refused_by_name(string path) => GoldenCases.Run("families", path, folder =>
    {
        string[] scalings =
        [
            """{ "rope_type": "linear", "factor": 3.0 }""",
            """{ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16 }""",
        ];
        foreach (var scaling in scalings)
        {
            using var model = PeftModel.Load(Computable(folder, JsonNode.Parse(scaling)!.AsObject()));
            var messages = new List<string>();
            var file = Path.Combine(Folder.Path, "model.gguf");
            if (IsWritten(model, file, messages))
            {
                var ids = Ids(model, messages);
                GgufLogits.Close(GgufLogits.Of((CausalModel)model.Base, ids), LlamaCpp.Logits(file, ids), 1e-3);
                Array.ForEach(Directory.GetFiles(Folder.Path), File.Delete);
            }
        }
    });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void Experts_whose_gates_stand_in_one_tensor_with_what_they_gate_are_read(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = PeftModel.Load(Computable(folder));
        var messages = new List<string>();
        var file = Path.Combine(Folder.Path, "model.gguf");
        if (!IsWritten(model, file, messages) || !Fuse(model, file))
        {
            return;
        }

        var ids = Ids(model, messages);
        var ours = GgufLogits.Of((CausalModel)model.Base, ids);
        using var read = PeftModel.Load(file);
        GgufLogits.Close(ours, GgufLogits.Of((CausalModel)read.Base, ids), 1e-4);

        // This llama.cpp reads them so in these; later ones in more.
        if (new GgufTree(model.Base).Map.Architecture is "deepseek2" or "qwen35moe")
        {
            GgufLogits.Close(ours, LlamaCpp.Logits(file, ids), 1e-3);
        }
    });

    [Theory]
    [MemberData(nameof(Others))]
    public void A_model_is_computed_alike_by_llama_cpp(string name, string json)
    {
        using var model = new PeftModel(RandomModel.Create(json), name);
        var file = Path.Combine(Folder.Path, "model.gguf");
        model.SaveGguf(file, "F32");
        var ours = GgufLogits.Of((CausalModel)model.Base, GgufLogits.Ids);
        GgufLogits.Close(ours, LlamaCpp.Logits(file, GgufLogits.Ids), 1e-3);
        using var read = PeftModel.Load(file);
        GgufLogits.Close(ours, GgufLogits.Of((CausalModel)read.Base, GgufLogits.Ids), 1e-4);
    }

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void An_adapter_acts_alike_in_llama_cpp(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var model = PeftModel.Load(Computable(folder));
        var messages = new List<string>();
        var (file, adapterFile) = (Path.Combine(Folder.Path, "model.gguf"), Path.Combine(Folder.Path, "adapter.gguf"));
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
        using var model = new PeftModel(RandomModel.Create(json), name);
        var file = Path.Combine(Folder.Path, "model.gguf");
        model.SaveGguf(file, "F32");
        ActsAlike(model, file, Path.Combine(Folder.Path, "adapter.gguf"), GgufLogits.Ids);
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
        var bare = GgufLogits.Of(causal, ids);
        model.AddAdapter(config, "a", 1).Perturb(2);
        GgufAdapter.Save(model, "a", adapterFile);
        var ours = GgufLogits.Of(causal, ids, model.NewPass(new ForwardContext()));
        Assert.True((ours - bare).abs().max().item<float>() > 1e-2);
        GgufLogits.Close(ours, LlamaCpp.Logits(file, ids, adapterFile), isGemma4 ? 3e-3 : 1e-3);
        if (isTied || !tree.Map.HeadHasAdapters)
        {
            model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.Of(!tree.Map.HeadHasAdapters ? "lm_head" : causal.Backbone.TokenEmbeddings!.Path.Split('.')[^1]) }, "b", 1);
            Assert.Equal("AdapterFormatNotSupported", Assert.Throws<NotSupportedByPeftException>(() => GgufAdapter.Save(model, "b", Path.Combine(Folder.Path, "b.gguf"))).ErrorId);
            Assert.False(File.Exists(Path.Combine(Folder.Path, "b.gguf")));
        }
    }

    [Fact]
    public void A_head_of_which_an_odd_number_of_elements_turns_is_refused()
    {
        using var model = new PeftModel(RandomModel.Create("""{ "model_type": "glm4", "architectures": ["Glm4ForCausalLM"], "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12, "partial_rotary_factor": 0.25 }"""), "odd");
        var error = Assert.Throws<NotSupportedByPeftException>(() => model.SaveGguf(Path.Combine(Folder.Path, "model.gguf"), "F32"));
        Assert.Equal(("GgufSettingNotSupported", "partial_rotary_factor"), (error.ErrorId, error.Target));
    }

    [Theory]
    [InlineData("full_attention", "All layers have attention")]
    [InlineData("linear_attention", "All layers are recurrent")]
    public void A_hybrid_whose_layers_are_of_one_kind_is_written_with_a_warning(string kind, string wanted)
    {
        var document = JsonNode.Parse((string)Others().First(static row => (string)row[0] == "Qwen3.5")[1])!.AsObject();
        document["layer_types"] = new JsonArray([.. Enumerable.Repeat(kind, 4).Select(static name => (JsonNode)name)]);
        using var model = new PeftModel(RandomModel.Create(document.ToJsonString()), "one kind");
        var messages = new List<string>();
        model.SaveGguf(Path.Combine(Folder.Path, "model.gguf"), "F32", onMessage: messages.Add);
        Assert.Contains(messages, message => message.StartsWith(wanted, StringComparison.Ordinal) && message.Contains("'qwen35'", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("""{ "model_type": "starcoder2", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "use_bias": false }""")]
    [InlineData("""{ "model_type": "smollm3", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "mlp_bias": true }""")]
    [InlineData("""{ "model_type": "gemma2", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": false }""")]
    [InlineData("""{ "model_type": "cohere", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "use_qk_norm": true }""")]
    [InlineData("""{ "model_type": "cohere", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": false }""")]
    [InlineData("""
        {
            "model_type": "granitemoehybrid", "hidden_size": 24, "shared_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 0,
            "layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_head": 12, "mamba_d_state": 8, "mamba_conv_bias": false
        }
        """)]
    [InlineData("""
        {
            "model_type": "gemma4_text", "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "global_head_dim": 8,
            "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 64, "sliding_window": 4, "num_kv_shared_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
        }
        """)]
    public void What_llama_cpp_cannot_run_is_refused_by_name(string json)
    {
        using var model = new PeftModel(RandomModel.Create(json), "refused");
        Assert.False(IsWritten(model, Path.Combine(Folder.Path, "model.gguf"), []));
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
            Assert.Empty(Directory.GetFiles(Folder.Path));
            return false;
        }
    }

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

    /// <summary>llama.cpp has no window for some families, and takes the factors of long texts for all of them, and says so.</summary>
    private static int[] Ids(PeftModel model, List<string> messages)
    {
        var vocabulary = (int)((CausalModel)model.Base).Backbone.TokenEmbeddings!.Weight.Shape[0];
        var ids = Array.ConvertAll(GgufLogits.Ids, id => id % vocabulary);
        return Says("window") ? ids[..Math.Min(ids.Length, (int)model.Base.Config.RequiredInteger("sliding_window"))] : Says("long texts") ? [.. ids, .. ids, .. ids] : ids;

        bool Says(string word) => messages.Exists(message => message.Contains(word, StringComparison.Ordinal));
    }

    /// <summary>Models as llama.cpp runs them, which the recorded ones of their families are not.</summary>
    public static TheoryData<string, string> Others() => new()
    {
        {
            "Qwen2-MoE whose head is the embedding", """
            {
                "model_type": "qwen2_moe", "hidden_size": 24, "intermediate_size": 32, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 14, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": false, "tie_word_embeddings": true
            }
            """
        },
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

    /// <summary>A copy of a model with the settings that llama.cpp takes for granted in its architecture, and YaRN's usual bounds.</summary>
    private string Computable(string folder, JsonObject? scaling = null)
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

        foreach (var (key, value) in scaling?.AsEnumerable() ?? [])
        {
            if ((text["rope_parameters"]?["full_attention"] ?? text["rope_parameters"]) is JsonObject rope)
            {
                _ = rope.Remove("attention_factor") | rope.Remove("mscale") | rope.Remove("mscale_all_dim");
                rope[key] = value?.DeepClone();
            }
        }

        var copy = Directory.CreateDirectory(Path.Combine(Folder.Path, "copy")).FullName;
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
}
