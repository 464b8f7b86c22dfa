using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Engine;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Quantization.Blocks;
using Peft.Tensors;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Generation;

/// <summary>A token computed by a recorded step, beside the same token computed as ever.</summary>
public class RecordedStepTests
{
    // More than a cache holds at first.
    private const int Tokens = 90;

    // Families whose blocks are surely recorded where their activation is the usual one; in others there may be what has no operation.
    private static readonly (string Type, string Activation)[] s_recorded =
    [
        ("llama", "silu"), ("qwen2", "silu"), ("qwen3", "silu"), ("gpt2", "gelu_new"), ("mixtral", "silu"), ("qwen2_moe", "silu"), ("qwen3_moe", "silu"), ("gpt_oss", "silu"),
    ];

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void Every_family_gives_the_same_logits(string path) => GoldenCases.Run("families", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = ModelLoader.Load(folder);
        if (model is not CausalModel causal)
        {
            return;
        }

        using var recorded = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        if (!recorded.Contains("plain.input_ids") || !causal.Backbone.CanContinue(1, 16))
        {
            return;
        }

        var ids = recorded.Read("plain.input_ids").narrow(0, 0, 1);
        ids = ids.narrow(1, 0, Math.Min(6, ids.size(1)));
        var (expected, none) = Continue(causal, ids, 10, isOff: true);
        var (found, replays) = Continue(causal, ids, 10, isOff: false);
        Assert.Equal(0, none);
        TensorAssert.CloseToScale(expected, found, 1e-4, "logits");
        var activation = model.Config.String("hidden_act") ?? model.Config.String("activation_function");
        Assert.True(replays > 0 || !s_recorded.Contains((model.Config.ModelType, activation ?? "")), $"'{model.Config.ModelType}' was computed as ever.");
    });

    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.BFloat16, 2e-2)]
    public void Adapters_act_in_it(ScalarType type, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create(bias: true, type: type);
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "v_proj", "down_proj") }, "first", 1).Perturb(2);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("v_proj", "gate_proj") }, "second", 1).Perturb(3);
        model.SetActive(["first", "second"]);
        Same(model, tolerance);
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void Where_there_is_no_OpenMP_the_runtimes_threads_compute_the_same_numbers(ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Wide(type);
        var (expected, _) = Continue((CausalModel)model, Prompt(), 8, isOff: false);
        OpenMp.IsHidden = true;
        try
        {
            var (found, replays) = Continue((CausalModel)model, Prompt(), 8, isOff: false);
            Assert.True(replays > 0);
            Assert.True(expected.eq(found).all().item<bool>());
        }
        finally
        {
            OpenMp.IsHidden = false;
        }
    }

    [Fact]
    public void What_has_no_operation_is_computed_as_ever()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("o_proj"), UseDora = true }, "dora", 1).Perturb(2);
        var causal = (CausalModel)model.Base;
        var ids = Prompt();
        var (expected, _) = Continue(causal, ids, 8, isOff: true, model);
        var (found, replays) = Continue(causal, ids, 8, isOff: false, model);
        Assert.Equal(0, replays);
        TensorAssert.CloseToScale(expected, found, 1e-6, "logits");
    }

    [Theory]
    [InlineData("nf4")]
    [InlineData("nf4-double")]
    [InlineData("int8")]
    [InlineData("Q8_0")]
    [InlineData("Q4_K")]
    public void Packed_weights_are_read_in_it(string form)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            using var owner = new PeftModel(Wide(type), "wide");
            var model = (CausalModel)owner.Base;
            Pack(model, form);
            var (expected, _) = Continue(model, Prompt(), 12, isOff: true);
            var (found, replays) = Continue(model, Prompt(), 12, isOff: false);
            Assert.True(replays > 0);
            TensorAssert.CloseToScale(expected, found, type == ScalarType.Float32 ? 1e-4 : 3e-2, $"logits of {form} in {type}");
        }
    }

    /// <summary>What may happen between two tokens that are computed over one cache.</summary>
    private static readonly Dictionary<string, Action<PeftModel>> s_events = new()
    {
        ["nothing"] = static _ => { },
        ["switched"] = static model => model.SetActive(["second"]),
        ["scaled"] = static model => model.SetActive([new ActiveAdapter("first", 0.5f)]),
        ["disabled"] = static model => model.Disable(),
        ["trained"] = static model => model["first"].Perturb(9),
        ["merged"] = static model => model.Merge(),
        ["unpacked"] = static model => model.Merge(options: new() { DataType = model.DataType }),
        ["replaced"] = static model =>
        {
            model.RemoveAdapter("first");
            model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "v_proj", "down_proj") }, "first", 1).Perturb(7);
            model.SetActive(["first"]);
        },
    };

    public static TheoryData<string, string, ScalarType> Events()
    {
        TheoryData<string, string, ScalarType> rows = [];
        foreach (var happens in s_events.Keys)
        {
            rows.Add(happens, "nf4", ScalarType.Float32);
            rows.Add(happens, "nf4-double", ScalarType.BFloat16);
            rows.Add(happens, "int8", ScalarType.Float32);
            rows.Add(happens, "plain", ScalarType.BFloat16);
        }

        return rows;
    }

    [Theory]
    [MemberData(nameof(Events))]
    public void It_is_never_of_the_model_as_it_was_before(string happens, string form, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = new PeftModel(Wide(type), "wide");
        var causal = (CausalModel)model.Base;
        Pack(causal, form);
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "v_proj", "down_proj") }, "first", 1).Perturb(2);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("v_proj", "gate_proj") }, "second", 1).Perturb(3);
        model.SetActive(["first"]);
        using var found = new ModelCache();
        using var expected = new ModelCache { Steps = { IsOff = true } };
        Same(Prompt(), 5);
        var before = found.Steps.Replays;
        Assert.True(before > 0);
        s_events[happens](model);
        Same(Given(5), 5);
        Assert.True(found.Steps.Replays >= before + 3, $"{found.Steps.Replays} after {before}");

        void Same(Tensor ids, int tokens) => TensorAssert.CloseToScale(
            Continue(causal, ids, tokens, expected, model).to(ScalarType.Float32),
            Continue(causal, ids, tokens, found, model).to(ScalarType.Float32), type == ScalarType.Float32 ? 1e-4 : 3e-2, $"logits of {form} in {type}, {happens}");
    }

    [Fact]
    public void A_long_text_a_batch_that_shrinks_and_padding_give_the_same_tokens()
    {
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        var generator = new TextGenerator(model);
        int[][] prompts = [[3, 4, 5, 6, 7], [8, 9]];
        var options = new GenerationOptions { MaxNewTokens = 40, EndOfTextIds = [11] };
        var together = generator.Generate(prompts, options);
        foreach (var (prompt, result) in prompts.Zip(together))
        {
            var alone = generator.Generate([prompt], options with { UseCache = false })[0];
            Assert.Equal(alone.TokenIds, result.TokenIds);
            Assert.Equal(alone.TokenIds, generator.Generate([prompt], options)[0].TokenIds);
        }
    }

    [Fact]
    public void It_goes_on_over_the_memory_that_grows()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        Same(model, 1e-4, Tokens);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Any_number_of_threads_gives_the_same(int threads)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var kept = Peft.Engine.ComputeThreads.Keep(Math.Min(threads, Environment.ProcessorCount));
        using var owner = new PeftModel(Wide(ScalarType.Float32), "wide");
        Same(owner, 1e-5);
    }

    [Theory]
    [InlineData(null, 1e-5)]
    [InlineData("nf4", 1e-4)]
    public void Weights_that_change_between_two_tokens_count_from_the_next_on(string? form, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = new PeftModel(Wide(ScalarType.Float32), "wide");
        if (form is not null)
        {
            Pack((CausalModel)model.Base, form);
        }

        var adapter = model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "first", 1).Perturb(2);
        Same(model, tolerance, 16, token =>
        {
            Action? change = token switch
            {
                4 => () => model.Merge(),
                8 => () => model.UndoMerge(),
                12 or 15 => Negate,
                _ => null,
            };
            change?.Invoke();
        });

        void Negate()
        {
            foreach (var factor in adapter.Adapter.Parameters().Select(static named => named.Parameter).Where(static parameter => parameter.Name.Contains('A', StringComparison.Ordinal)))
            {
                factor.Data.neg_();
                factor.MarkChanged();
            }
        }
    }

    [Fact]
    public void Embeddings_that_are_given_stay_the_caller_s()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var owner = new PeftModel(Wide(ScalarType.Float32), "wide");
        using var cache = new ModelCache();
        Tensor[] given = [.. Enumerable.Range(0, 5).Select(static _ => randn([1, 256]))];
        Tensor[] before = [.. given.Select(static one => one.clone())];
        foreach (var one in given)
        {
            owner.Base.Forward(new ModelInputs { Ids = tensor(new long[,] { { 3 } }), Embeddings = one }, new ForwardContext { Cache = cache, Rows = 1, Length = 1 });
        }

        Assert.True(cache.Steps.Replays > 0);
        Assert.All(given.Zip(before), static pair => Assert.True(pair.First.equal(pair.Second).all().item<bool>()));
    }

    private static void Same(PeftModel model, double tolerance, int tokens = 12, Action<int>? between = null)
    {
        var causal = (CausalModel)model.Base;
        var (expected, _) = Continue(causal, Prompt(), tokens, isOff: true, model, between);
        var (found, replays) = Continue(causal, Prompt(), tokens, isOff: false, model, between);
        Assert.True(replays > 0);
        TensorAssert.CloseToScale(expected, found, tolerance, "logits");
    }

    internal static Tensor Prompt() => tensor(new long[,] { { 3, 4, 5, 6 } });

    /// <summary>The logits of tokens that are given one after another, and how many of them a recording computed.</summary>
    internal static (Tensor Logits, long Replays) Continue(CausalModel model, Tensor ids, int tokens, bool isOff, PeftModel? owner = null, Action<int>? between = null)
    {
        using var cache = new ModelCache { Steps = { IsOff = isOff } };
        var logits = Continue(model, ids, tokens, cache, owner, between);
        return (logits, cache.Steps.Replays);
    }

    private static Tensor Continue(CausalModel model, Tensor ids, int tokens, ModelCache cache, PeftModel? owner, Action<int>? between = null)
    {
        var all = new List<Tensor>();
        for (var i = 0; i < tokens; i++)
        {
            between?.Invoke(i);
            var context = new ForwardContext { Cache = cache };
            context = owner?.NewPass(context) ?? context;
            all.Add(model.Logits(model.Forward(ids, context).LastPosition(), context));

            // The same tokens whatever the logits: a tie would lead the two apart.
            ids = Given(i, model.VocabularySize);
        }

        return cat(all);
    }

    internal static Tensor Given(int index, long vocabulary = 64) => tensor(new[,] { { 3 + ((index * 7) % Math.Min(vocabulary - 3, 30)) } });

    internal static PretrainedModel Wide(ScalarType type)
    {
        var model = ArchitectureRegistry.Create(ModelConfig.FromText("""
            {
              "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 256, "intermediate_size": 512,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": false
            }
            """));
        using var generator = new Generator(4);
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            var values = empty([.. parameter.Shape]).normal_(0, 0.1, generator);
            parameter.Assign((parameter.Shape.Count == 1 ? values.add_(1) : values).to(type));
        }

        model.Fuse();
        return model;
    }

    internal static void Pack(CausalModel model, string form)
    {
        if (form.StartsWith("nf4", StringComparison.Ordinal))
        {
            ModelQuantizer.Quantize(model, new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = form == "nf4-double" });
            return;
        }

        if (form == "plain")
        {
            return;
        }

        if (form == "int8")
        {
            ModelQuantizer.Quantize(model, new QuantizationConfig { LoadIn8Bit = true });
            return;
        }

        var buffer = new UnpackBuffer();
        foreach (var layer in model.Backbone.Descendants().OfType<Linear>())
        {
            layer.Weight.Pack(BlockWeight.Quantize(layer.Weight.Data, form, buffer));
        }

        model.Fuse();
    }
}
