using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Models.Gguf;
using Peft.Quantization.Blocks;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Generation;

/// <summary>A token of a model with routed experts, computed by a recorded step, beside the same token computed as ever.</summary>
public class RecordedExpertTests
{
    private const string Sizes = """
        "vocab_size": 64, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 256, "tie_word_embeddings": false
        """;

    private static readonly Dictionary<string, string> s_models = new()
    {
        ["mixtral"] = """ "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2 """,
        ["qwen2_moe"] = """
            "model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "intermediate_size": 512, "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 256, "num_experts": 6, "num_experts_per_tok": 3
            """,
        ["qwen3_moe"] = """
            "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "intermediate_size": 512, "moe_intermediate_size": 256,
            "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": true, "decoder_sparse_step": 2
            """,
        ["gpt_oss"] = """
            "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
            "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]
            """,
    };

    public static TheoryData<string, ScalarType> Dense()
    {
        TheoryData<string, ScalarType> rows = [];
        foreach (var name in s_models.Keys)
        {
            rows.Add(name, ScalarType.Float32);
            rows.Add(name, ScalarType.BFloat16);
        }

        return rows;
    }

    [Theory]
    [MemberData(nameof(Dense))]
    public void Dense_experts_are_chosen_and_computed_in_it(string name, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var owner = Create(name, type);
        Same(owner, type);
    }

    [Theory]
    [InlineData("mixtral", "Q8_0")]
    [InlineData("mixtral", "Q4_K")]
    [InlineData("qwen3_moe", "Q6_K")]
    [InlineData("gpt_oss", "MXFP4")]
    [InlineData("gpt_oss", "Q8_0")]
    public void Packed_experts_are_read_in_it(string name, string form)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            using var owner = Create(name, type);
            var buffer = new UnpackBuffer();
            foreach (var (module, parameter, _) in owner.Base.NamedParameters().Where(static named => named.Parameter.Shape.Count == 3).ToList())
            {
                var isTransposed = name == "gpt_oss";
                using var values = isTransposed ? parameter.Data.transpose(1, 2).contiguous() : parameter.Data.alias();
                parameter.Pack(form == "MXFP4" ? Halves(values, buffer) : BlockWeight.Quantize(values, form, buffer, isTransposed));
            }

            Same(owner, type);
        }
    }

    [Fact]
    public void Adapters_beside_the_experts_act_in_it_and_one_on_them_is_computed_as_ever()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var owner = Create("mixtral", ScalarType.Float32);
        owner.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "v_proj") }, "beside", 1).Perturb(2);
        owner.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("o_proj"), TargetParameters = ["mlp.experts.down_proj"] }, "on", 1).Perturb(3);
        owner.SetActive(["beside"]);
        Same(owner, ScalarType.Float32);
        owner.SetActive(["on"]);
        Same(owner, ScalarType.Float32, isRecorded: false);
        owner.Merge();
        Same(owner, ScalarType.Float32);
    }

    [Fact]
    public void What_the_routers_gave_is_given_for_each_token()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var owner = Create("mixtral", ScalarType.Float32);
        var model = (CausalModel)owner.Base;
        using var found = new ModelCache();
        using var expected = new ModelCache { Steps = { IsOff = true } };
        List<(Tensor Expected, Tensor Found)> all = [];
        for (var token = 0; token < 6; token++)
        {
            var ids = tensor(new long[,] { { 3 + (7 * token) } });
            var (one, other) = (model.Forward(ids, new ForwardContext { Cache = expected }), model.Forward(ids, new ForwardContext { Cache = found }));
            Assert.Equal(one.RouterLogits.Count, other.RouterLogits.Count);
            all.AddRange(one.RouterLogits.Zip(other.RouterLogits));
        }

        Assert.True(found.Steps.Replays > 0);
        Assert.All(all, static pair => TensorAssert.CloseToScale(pair.Expected, pair.Found, 1e-4, "router's scores"));
    }

    [Theory]
    [InlineData("Softmax", 1, 1, false)]
    [InlineData("SoftmaxOfChosen", 1, 1, false)]
    [InlineData("Sigmoid", 1, 1, true)]
    [InlineData("Sigmoid", 4, 2, true)]
    public void One_token_goes_where_it_goes_among_others(string scores, long groups, long chosenGroups, bool corrects)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var generator = new Generator(3);
        var rule = new RouterRule(3, Enum.Parse<RouterScores>(scores)) { Normalises = corrects, Epsilon = 1e-6, Scale = 1.5, Groups = groups, ChosenGroups = chosenGroups };
        var router = new Router(16, 8, rule, "Router", correction: corrects ? "correction" : null);
        foreach (var parameter in new[] { router.Weight, router.Correction })
        {
            parameter?.Assign(empty([.. parameter.Shape]).normal_(0, 1, generator));
        }

        var x = empty([40, 8]).normal_(0, 1, generator);
        var all = router.Forward(x, new ForwardContext { Rows = 40, Length = 1 });
        for (var row = 0; row < 40; row++)
        {
            var one = router.Forward(x.narrow(0, row, 1), new ForwardContext { Rows = 1, Length = 1 });
            var (experts, order) = all.Experts[row].sort();
            Assert.Equal(experts.data<long>().ToArray(), one.Experts[0].data<long>().ToArray());
            TensorAssert.CloseToScale(all.Weights[row].index_select(0, order), one.Weights[0], 1e-5, "weights");
        }
    }

    private static void Same(PeftModel owner, ScalarType type, bool isRecorded = true)
    {
        const int Tokens = 16;
        var model = (CausalModel)owner.Base;
        var (expected, _) = RecordedStepTests.Continue(model, RecordedStepTests.Prompt(), Tokens, isOff: true, owner);
        var (found, replays) = RecordedStepTests.Continue(model, RecordedStepTests.Prompt(), Tokens, isOff: false, owner);
        Assert.Equal(isRecorded, replays > 0);
        TensorAssert.CloseToScale(expected.to(ScalarType.Float32), found.to(ScalarType.Float32), type == ScalarType.Float32 ? 1e-4 : 3e-2, $"logits in {type}");
        if (type == ScalarType.Float32)
        {
            // Many tokens at once go by the engine's operators.
            var ids = cat([RecordedStepTests.Prompt(), .. Enumerable.Range(0, Tokens - 1).Select(static i => RecordedStepTests.Given(i))], 1);
            var context = owner.NewPass(new ForwardContext());
            var together = model.Logits(model.Forward(ids, context), context);
            TensorAssert.CloseToScale(together.narrow(0, together.size(0) - Tokens, Tokens), found, 1e-4, "logits of many tokens at once");
        }
    }

    /// <summary>Blocks of any codes, with scales of an eighth: what is only read can't be quantised to.</summary>
    private static BlockWeight Halves(Tensor like, UnpackBuffer buffer)
    {
        const int BlockBytes = 17, BlockValues = 32;
        using var generator = new Generator(5);
        var blocks = randint(0, 256, [like.size(0), like.size(1), like.size(2) / BlockValues, BlockBytes], ScalarType.Byte, generator: generator);
        blocks.select(3, 0).fill_(127 - 5);
        return BlockWeight.Of(new GgufPacked(GgufType.Named("MXFP4"), blocks.view(like.size(0), like.size(1), -1), like.dtype), buffer, isTransposed: true, like.device);
    }

    internal static PeftModel Create(string name, ScalarType type)
    {
        var model = ArchitectureRegistry.Create(ModelConfig.FromText($"{{ {s_models[name]}, {Sizes} }}"));
        using var generator = new Generator(4);
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            var values = empty([.. parameter.Shape]).normal_(0, 0.1, generator);
            parameter.Assign((parameter.Shape.Count == 1 ? values.add_(1) : values).to(type));
        }

        model.Fuse();
        return new PeftModel(model, name);
    }
}
