using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Architectures;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>What no case records of the decoders that are not Llama's kind: several documents in a row, prompts in front, and a cache behind them.</summary>
public class DecoderFamilyTests
{
    private const int Virtual = 3;

    public static TheoryData<string> Configurations =>
    [
        """{ "model_type": "gpt2", "n_embd": 16, "n_head": 4, "n_layer": 2 }""",
        """{ "model_type": "gpt_bigcode", "n_embd": 16, "n_head": 4, "n_layer": 2 }""",
        """{ "model_type": "gpt_neo", "hidden_size": 16, "num_heads": 4, "num_layers": 2, "window_size": 3, "attention_types": [[["global", "local"], 1]] }""",
        """{ "model_type": "gptj", "n_embd": 16, "n_head": 4, "n_layer": 2, "rotary_dim": 2 }""",
        """{ "model_type": "codegen", "n_embd": 16, "n_head": 4, "n_layer": 2, "rotary_dim": 2 }""",
        """{ "model_type": "gpt_neox", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2 }""",
        """{ "model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 4, "num_hidden_layers": 2 }""",
        """{ "model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "word_embed_proj_dim": 8, "do_layer_norm_before": false }""",
        """{ "model_type": "gpt_neox", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2 }""",
        """{ "model_type": "bloom", "hidden_size": 24, "n_head": 6, "n_layer": 2 }""",
        """{ "model_type": "falcon", "hidden_size": 24, "num_attention_heads": 6, "num_hidden_layers": 2, "alibi": true, "multi_query": false, "parallel_attn": false }""",
        """{ "model_type": "falcon", "hidden_size": 16, "num_attention_heads": 4, "num_kv_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "new_decoder_architecture": true }""",
        """{ "model_type": "mpt", "d_model": 16, "n_heads": 4, "n_layers": 2, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 16 }""",
        """{ "model_type": "starcoder2", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "sliding_window": 4 }""",
        """
        {
            "model_type": "stablelm", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
            "qk_layernorm": true, "use_parallel_residual": true
        }
        """,
        """{ "model_type": "cohere", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "use_qk_norm": true }""",
        """{ "model_type": "phi", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "qk_layernorm": true }""",
        """
        {
            "model_type": "gemma4_text", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "head_dim": 4,
            "global_head_dim": 8, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 40, "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
        }
        """,
    ];

    [Theory]
    [MemberData(nameof(Configurations))]
    public void Documents_in_one_row_are_as_each_alone(string json) => Run(json, model =>
    {
        var ids = Ids(11);
        var positions = cat([arange(5), arange(6)]).unsqueeze(0);
        var together = Logits(model, ids, new ForwardContext { Packing = [[5, 6]], Positions = positions });
        var alone = cat([Logits(model, ids.narrow(1, 0, 5), new()), Logits(model, ids.narrow(1, 5, 6), new())], 0);
        TensorAssert.CloseToScale(alone, together, 1e-5, "packed");
    });

    [Theory]
    [MemberData(nameof(Configurations))]
    public void A_cache_behind_a_prompt_gives_what_the_whole_row_gives(string json) => Run(json, model =>
    {
        foreach (var prompt in Prompts(model))
        {
            foreach (var mask in new[] { null, tensor(new long[,] { { 0, 0, 1, 1, 1, 1, 1, 1, 1 } }) })
            {
                var ids = Ids(9);
                var positions = mask?.cumsum(1).sub(1).clamp_min(0);
                var whole = Logits(model, ids, new ForwardContext { Prompt = prompt, AttentionMask = mask, Positions = positions });
                using var cache = new ModelCache();
                _ = Logits(model, ids.narrow(1, 0, 6), Step(0, 6));
                var first = Logits(model, ids.narrow(1, 6, 2), Step(6, 2));
                var last = Logits(model, ids.narrow(1, 8, 1), Step(8, 1));
                TensorAssert.CloseToScale(whole.narrow(0, whole.size(0) - 3, 3), cat([first, last], 0), 2e-5, $"{(mask is null ? "plain" : "padded")}, {(prompt.KeyValues is null ? "tokens" : "keys")}");

                ForwardContext Step(long start, long length) => new()
                {
                    Prompt = prompt, Cache = cache, AttentionMask = mask?.narrow(1, 0, start + length), Positions = positions?.narrow(1, start, length),
                };
            }
        }
    });

    [Theory]
    [MemberData(nameof(Configurations))]
    public void Blocks_that_stand_again_are_those_of_the_model_that_is_saved_with_them(string json) => Run(json, bare =>
    {
        using var folder = new TemporaryFolder();
        var model = new PeftModel(bare, "tiny");
        var before = Logits(bare, Ids(6), new());
        var config = new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear, LayerReplication = [[0, 2], [0, 2]] };
        if (bare.Backbone is not DecoderModel || !LayerReplication.IsWherePeftLooks(bare))
        {
            var error = Assert.ThrowsAny<PeftException>(() => model.AddAdapter(config, "more", 1));
            Assert.Equal("LayersNotReplicable", error.ErrorId);
            Assert.Equal(LayerReplication.IsWherePeftLooks(bare), error is NotSupportedByPeftException);
            return;
        }

        model.AddAdapter(config, "more", 1).Perturb(2);
        var whole = Logits(bare, Ids(6), model.NewPass(new ForwardContext()));
        Assert.True(whole.sub(before).abs().max().item<float>() > 1e-3);
        using var cache = new ModelCache();
        var steps = cat([Logits(bare, Ids(6).narrow(1, 0, 5), model.NewPass(new ForwardContext { Cache = cache })), Logits(bare, Ids(6).narrow(1, 5, 1), model.NewPass(new ForwardContext { Cache = cache }))], 0);
        TensorAssert.CloseToScale(whole, steps, 2e-5, "with a cache");

        model.Merge(options: new MergeOptions { Unload = true });
        model.Save(folder.Path);
        using var loaded = PeftModel.Load(folder.Path);
        TensorAssert.CloseToScale(whole, Logits((CausalModel)loaded.Base, Ids(6), new()), 2e-5, "merged");
    });

    [Fact]
    public void Blocks_that_cannot_stand_again_leave_the_model_as_it_was() => Run(
        """{ "model_type": "gpt_neo", "hidden_size": 16, "num_heads": 4, "num_layers": 2, "window_size": 3, "attention_types": [[["global", "local"], 1]] }""", bare =>
    {
        var model = new PeftModel(bare, "tiny");
        var error = Assert.Throws<PeftException>(() => model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.AllLinear, LayerReplication = [[0, 1], [0, 2]] }, "more", 1));
        Assert.Equal("LayersNotReplicable", error.ErrorId);
        Assert.Equal(2, bare.Config.Integer("num_layers"));
    });

    [Fact]
    public void A_prefix_that_does_not_fit_the_heads_of_keys_is_an_error() => Run(
        """{ "model_type": "falcon", "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2 }""",
        model =>
        {
            var prompt = Prompts(model).Last();
            Assert.Equal("PromptDoesNotFit", Assert.Throws<PeftException>(() => Logits(model, Ids(4), new ForwardContext { Prompt = prompt })).ErrorId);
        });

    [Theory]
    [InlineData("\"inv_sqrt_d_model\"")]
    [InlineData("0.5")]
    public void What_MPT_says_of_the_scale_of_logits_does_nothing(string scale)
    {
        const string Plain = """{ "model_type": "mpt", "d_model": 16, "n_heads": 4, "n_layers": 1 }""";
        var sums = new double[2];
        Run(Plain, model => sums[0] = Logits(model, Ids(4), new()).abs().sum().item<float>());
        Run(Plain.Replace("\"n_layers\"", $"\"logit_scale\": {scale}, \"n_layers\"", StringComparison.Ordinal), model => sums[1] = Logits(model, Ids(4), new()).abs().sum().item<float>());
        Assert.Equal(sums[0], sums[1]);
    }

    [Theory]
    [InlineData("qwen3_nest", "'qwen3_next'")]
    [InlineData("qwen3_6", "'qwen3_5'")]
    [InlineData("gptneox", "'gpt_neox'")]
    [InlineData("phimoe", "'phi'")]
    public void An_unknown_family_names_the_nearest(string type, string near)
    {
        var error = Assert.Throws<NotSupportedByPeftException>(() => ArchitectureRegistry.Create(ModelConfig.FromText($$"""{ "model_type": "{{type}}" }""")));
        Assert.Equal("ArchitectureNotSupported", error.ErrorId);
        Assert.Contains($"nearest is {near}", error.RecommendedAction, StringComparison.Ordinal);
        Assert.Contains("CONTRIBUTING", error.RecommendedAction, StringComparison.Ordinal);
    }

    [Fact]
    public void A_head_that_a_known_family_lacks_names_those_it_has()
    {
        var error = Assert.Throws<NotSupportedByPeftException>(() => ArchitectureRegistry.Create(ModelConfig.FromText("""{ "model_type": "llama", "architectures": ["LlamaForMaskedLM"] }""")));
        Assert.Contains("LlamaForCausalLM, ", error.RecommendedAction, StringComparison.Ordinal);
        Assert.DoesNotContain("Mistral", error.RecommendedAction, StringComparison.Ordinal);
    }

    [Fact]
    public void Code_of_an_unknown_family_is_never_run_and_that_is_said()
    {
        var error = Assert.Throws<NotSupportedByPeftException>(() => ArchitectureRegistry.Create(ModelConfig.FromText("""{ "model_type": "qwen", "auto_map": { "AutoConfig": "configuration_qwen.QWenConfig" } }""")));
        Assert.Contains("(auto_map) is never run", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_family_stands_in_the_table_of_families()
    {
        var text = File.ReadAllText(Path.Combine(RepositoryRoot.Folder, "docs", "families.md"));
        Assert.All(ArchitectureRegistry.Families, family => Assert.Contains($"`{family.ModelType}`", text, StringComparison.Ordinal));
    }

    private static void Run(string json, Action<CausalModel> check)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = (CausalModel)RandomModel.Create(json, vocabulary: 40);
        check(model);
    }

    private static Tensor Ids(long length) => arange(length, ScalarType.Int64).mul(7).add(3).remainder(40).unsqueeze(0);

    private static Tensor Logits(CausalModel model, Tensor ids, ForwardContext context)
    {
        var pass = context with { Rows = ids.size(0), Length = ids.size(1) };
        return model.Logits(model.Forward(ids, pass), pass);
    }

    private static IEnumerable<VirtualPrompt> Prompts(CausalModel model)
    {
        var config = model.Config;
        var heads = config.Integer("num_attention_heads") ?? config.Integer("n_head") ?? config.RequiredInteger("num_heads");
        var layers = config.Integer("num_hidden_layers") ?? config.Integer("n_layer") ?? config.RequiredInteger("num_layers");
        var (keys, size) = model.Backbone.KeyValueShape ?? (config.Integer("num_key_value_heads") ?? heads, config.Integer("head_dim") ?? ((config.Integer("hidden_size") ?? model.Backbone.Width) / heads));
        yield return new VirtualPrompt(Virtual) { Embeddings = randn(Virtual, model.Backbone.TokenEmbeddings!.Size) };
        yield return new VirtualPrompt(Virtual)
        {
            KeyValues = [.. Enumerable.Range(0, (int)layers).Select(_ => new KeyValuePrefix(randn(1, keys, Virtual, size), randn(1, keys, Virtual, size)))],
        };
    }
}
