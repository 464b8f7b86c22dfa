using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.PrefixTuning;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Generation;

/// <summary>A token that a decoder writes of what its encoder read, computed by a recorded step, beside the same token computed as ever.</summary>
public class RecordedDecoderStepTests
{
    // More than a cache holds at first.
    private const int ManyTokens = 90;

    private static readonly Dictionary<string, string> s_models = new()
    {
        ["t5"] = """
            { "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 41, "d_model": 32, "d_kv": 8, "d_ff": 48,
              "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0 }
            """,
        ["flan-t5"] = """
            { "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 41, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2,
              "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false,
              "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16 }
            """,
        ["bart"] = """
            { "model_type": "bart", "architectures": ["BartForConditionalGeneration"], "vocab_size": 41, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
              "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128,
              "decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 2 }
            """,
    };

    public static TheoryData<string> Names => [.. s_models.Keys];

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void Every_family_gives_the_same_logits(string path) => GoldenCases.Run("families", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = ModelLoader.Load(folder);
        using var recorded = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        if (model is not SequenceToSequenceModel sequences || !recorded.Contains("generate.input_ids"))
        {
            return;
        }

        // The last row has the padding where there is any.
        var all = recorded.Read("generate.input_ids");
        var row = all.size(0) - 1;
        var inputs = (all.narrow(0, row, 1), recorded.Read("generate.attention_mask").narrow(0, row, 1));
        var (expected, none) = Write(sequences, inputs, 10, isOff: true);
        var (found, replays) = Write(sequences, inputs, 10, isOff: false);
        Assert.Equal(0, none);
        TensorAssert.CloseToScale(expected, found, 1e-4, "logits");
        Assert.True(replays > 0 || model.Backbone.Descendants().OfType<Activation>().Any(static activation => activation.Form is null), $"'{model.Config.ModelType}' was computed as ever.");
    });

    [Theory]
    [MemberData(nameof(Names))]
    public void It_goes_on_over_memory_that_grows_and_sees_no_padding(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Create(name);
        Same(model, 1e-4, ManyTokens);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Halves_are_nearly_the_same(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Create(name, ScalarType.BFloat16);
        Same(model, 3e-2);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Adapters_act_in_it_and_weights_that_change_count_from_the_next_token_on(string name)
    {
        const int Tokens = 20;
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (expected, _) = Changing(isOff: true);
        var (found, replays) = Changing(isOff: false);
        Assert.True(replays >= Tokens / 2, $"{replays} of {Tokens} tokens were computed by a recording.");
        TensorAssert.CloseToScale(expected, found, 1e-4, "logits");

        (Tensor Logits, long Replays) Changing(bool isOff)
        {
            using var model = Create(name);
            model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "first", 1).Perturb(2);
            model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = name == "bart" ? ModuleNames.Of("v_proj", "fc1") : ModuleNames.Of("v", "o") }, "second", 1).Perturb(3);
            model.SetActive(["first"]);
            return Write(model, Tokens, isOff, token =>
            {
                Action? change = token switch
                {
                    4 => () => model.SetActive(["first", "second"]),
                    10 => () => model["first"].Perturb(5),
                    15 => () => model.Merge(),
                    _ => null,
                };
                change?.Invoke();
            });
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_prefix_is_seen_though_it_has_no_operation(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Create(name);
        model.AddAdapter(new PrefixTuningConfig { VirtualTokens = 3, TaskType = "SEQ_2_SEQ_LM" }, "prefix", 1).Perturb(2);
        var (expected, _) = Write(model, 12, isOff: true);
        var (found, replays) = Write(model, 12, isOff: false);
        Assert.Equal(0, replays);
        TensorAssert.CloseToScale(expected, found, 1e-6, "logits");
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Beams_batches_that_shrink_and_single_texts_give_the_tokens_they_give_without_a_cache(string name)
    {
        using var noGradients = no_grad();
        using var model = Create(name);
        var generator = new TextGenerator(model);
        int[][] prompts = [[3, 4, 5, 6, 7], [8, 9]];
        foreach (var options in new[] { new GenerationOptions { MaxNewTokens = 24, EndOfTextIds = [11] }, new GenerationOptions { MaxNewTokens = 24, EndOfTextIds = [11], BeamCount = 3 } })
        {
            var together = generator.Generate(prompts, options);
            foreach (var (prompt, result) in prompts.Zip(together))
            {
                var alone = generator.Generate([prompt], options with { UseCache = false })[0];
                Assert.Equal(alone.TokenIds, result.TokenIds);
                Assert.Equal(alone.TokenIds, generator.Generate([prompt], options)[0].TokenIds);
            }
        }
    }

    private static void Same(PeftModel model, double tolerance, int tokens = 12)
    {
        var (expected, _) = Write(model, tokens, isOff: true);
        var (found, replays) = Write(model, tokens, isOff: false);
        Assert.True(replays > tokens / 2, $"{replays} of {tokens} tokens were computed by a recording.");
        TensorAssert.CloseToScale(expected, found, tolerance, "logits");
    }

    private static (Tensor Logits, long Replays) Write(PeftModel model, int tokens, bool isOff, Action<int>? between = null) => Write(
        (SequenceToSequenceModel)model.Base, (tensor(new long[,] { { 3, 4, 5, 6, 7, 1, 1 } }), tensor(new long[,] { { 1, 1, 1, 1, 1, 0, 0 } })), tokens, isOff, model, between);

    /// <summary>The logits of tokens that are given one after another, and how many of them a recording computed.</summary>
    private static (Tensor Logits, long Replays) Write(
        SequenceToSequenceModel model, (Tensor Ids, Tensor Mask) read, int tokens, bool isOff, PeftModel? owner = null, Action<int>? between = null)
    {
        using var cache = new ModelCache { Steps = { IsOff = isOff } };
        var all = new List<Tensor>();
        var inputs = new ModelInputs { Ids = read.Ids, DecoderIds = tensor(new long[,] { { model.DecoderStartId } }) };
        for (var i = 0; i < tokens; i++)
        {
            between?.Invoke(i);
            var context = new ForwardContext { Cache = cache, Rows = 1, Length = read.Ids.size(1), AttentionMask = read.Mask };
            context = owner?.NewPass(context) ?? context;
            var output = model.Forward(inputs, context);
            all.Add(model.Logits(output.LastPosition(), context));

            // The same tokens whatever the logits: a tie would lead the two apart.
            inputs = new ModelInputs { Encoded = output.Encoded, DecoderIds = tensor(new long[,] { { 3 + ((i * 7) % 30) } }) };
        }

        return (cat(all).to(ScalarType.Float32), cache.Steps.Replays);
    }

    private static PeftModel Create(string name, ScalarType type = ScalarType.Float32)
    {
        var model = ArchitectureRegistry.Create(ModelConfig.FromText(s_models[name]));
        using var generator = new Generator(4);
        foreach (var (_, parameter, _) in model.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            var values = empty([.. parameter.Shape]).normal_(0, 0.2, generator);
            parameter.Assign((parameter.Shape.Count == 1 && parameter.Name == "weight" ? values.add_(1) : values).to(type));
        }

        model.Fuse();
        return new PeftModel(model, name);
    }
}
