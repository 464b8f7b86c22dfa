using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.PrefixTuning;
using Peft.Adapters.Methods.Prompts;
using Peft.Adapters.Methods.PromptTuning;
using Peft.Adapters.Methods.PTuning;
using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using Peft.Tests.Generation;
using Peft.Tests.Models;
using Peft.Tests.Training;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Methods that put something in front of every row.</summary>
public class PromptMethodTests
{
    private static readonly Dictionary<string, PromptConfig> s_configs = new()
    {
        ["prompt"] = new PromptTuningConfig { VirtualTokens = 3, TaskType = "CAUSAL_LM" },
        ["prefix"] = new PrefixTuningConfig { VirtualTokens = 3, TaskType = "CAUSAL_LM" },
        ["projected"] = new PrefixTuningConfig { VirtualTokens = 3, TaskType = "CAUSAL_LM", PrefixProjection = true },
        ["mlp"] = new PTuningConfig { VirtualTokens = 3, TaskType = "CAUSAL_LM" },
        ["lstm"] = new PTuningConfig { VirtualTokens = 3, TaskType = "CAUSAL_LM", EncoderKind = PromptNetwork.Lstm, EncoderHiddenSize = 5 },
    };

    public static IEnumerable<object[]> Names() => s_configs.Keys.Select(static name => new object[] { name });

    [Theory]
    [MemberData(nameof(Names))]
    public void Rows_padded_on_the_left_and_without_a_cache_continue_as_they_do_alone(string name)
    {
        using var model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        var options = new GenerationOptions { MaxNewTokens = 8 };
        var generator = new TextGenerator(model);
        string[] prompts = ["The people of the United States", "Call me"];
        var before = generator.Generate(prompts, options)[0].TokenIds;
        model.AddAdapter(s_configs[name], seed: 4).Perturb(5, 0.5);
        var together = generator.Generate(prompts, options);
        Assert.NotEqual(before, together[0].TokenIds);
        for (var i = 0; i < prompts.Length; i++)
        {
            Assert.Equal(generator.Generate([prompts[i]], options)[0].TokenIds, together[i].TokenIds);
            Assert.Equal(generator.Generate([prompts[i]], options with { UseCache = false })[0].TokenIds, together[i].TokenIds);
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_training_that_was_stopped_goes_on_as_if_it_had_not_been(string name)
    {
        var options = new TrainingOptions { LearningRate = 1e-2, BatchSize = 2, MaxSteps = 4, Seed = 5 };
        TrainerTests.GoesOnAfter(2, Model, options);

        PeftModel Model()
        {
            var model = TinyLlama.Create();
            model.AddAdapter(s_configs[name], "tuned", seed: 3);
            return model;
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void What_is_saved_computes_the_same_when_it_is_loaded(string name)
    {
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create();
        model.AddAdapter(s_configs[name], seed: 3).Perturb(2);
        using var before = ModelRun.Logits(model, TinyLlama.Inputs());
        model.SaveAdapter("default", folder.Path);
        using var other = TinyLlama.Create();
        other.LoadAdapter(folder.Path);
        using var after = ModelRun.Logits(other, TinyLlama.Inputs());
        Assert.True(before.sub(after).abs().max().item<float>() < 1e-5);
    }

    [Theory]
    [InlineData("projected")]
    [InlineData("mlp")]
    public void A_prompt_whose_network_is_not_in_the_file_is_not_trained_on(string name)
    {
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create();
        model.AddAdapter(s_configs[name]);
        model.SaveAdapter("default", folder.Path);
        model.LoadAdapter(folder.Path, "tuned");
        var error = Assert.Throws<PeftException>(() => new Trainer(TrainerTests.Request(model, new TrainingOptions { MaxSteps = 1, BatchSize = 2 })).Train());
        Assert.Equal("PromptEncoderMissing", error.ErrorId);
    }

    [Fact]
    public void Prompts_act_alone_and_at_full_strength_and_beside_adapters_of_layers()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_configs["prompt"], "one");
        model.AddAdapter(s_configs["prefix"], "two");
        model.AddAdapter(new LoraConfig { TargetModules = Peft.Adapters.Targets.ModuleNames.Of("q_proj") }, "layers");
        model.SetActive("one", "two");
        Assert.Equal("PromptsConflict", Assert.Throws<PeftException>(() => ModelRun.Logits(model, TinyLlama.Inputs())).ErrorId);
        model.SetActive([new ActiveAdapter("one", 0.5f)]);
        Assert.Equal("PromptsConflict", Assert.Throws<PeftException>(() => ModelRun.Logits(model, TinyLlama.Inputs())).ErrorId);
        model.SetActive("layers", "two");
        ModelRun.Logits(model, TinyLlama.Inputs()).Dispose();
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_prompt_is_not_merged(string name)
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_configs[name]);
        Assert.Equal("MergeNotPossible", Assert.Throws<PeftException>(() => model.Merge()).ErrorId);
        Assert.False(model.IsMerged);
    }

    [Fact]
    public void A_sampled_start_is_made_of_the_vocabularys_vectors()
    {
        using var model = TinyLlama.Create();
        var table = model.AddAdapter(new PromptTuningConfig { VirtualTokens = 6, TaskType = "CAUSAL_LM", Start = PromptStart.SampleVocabulary }, seed: 1).TrainableParameters[0].Parameter.Data;
        var vectors = model.Base.Backbone.TokenEmbeddings!.Weight.Data;
        for (var i = 0; i < 6; i++)
        {
            Assert.True(vectors.eq(table[i]).all(1).any().item<bool>());
        }
    }

    [Fact]
    public void A_text_that_no_tokenizer_reads_is_an_error_and_nothing_is_added()
    {
        using var model = TinyLlama.Create();
        var config = new PromptTuningConfig { VirtualTokens = 2, TaskType = "CAUSAL_LM", Start = PromptStart.Text, StartText = "a" };
        Assert.Equal("TokenizerMissing", Assert.Throws<PeftException>(() => model.AddAdapter(config)).ErrorId);
        Assert.Empty(model.Adapters);
    }

    [Fact]
    public void A_prompt_made_for_another_width_is_refused()
    {
        using var model = TinyLlama.Create();
        Assert.Equal("PromptDoesNotFit", Assert.Throws<PeftException>(() => model.AddAdapter(s_configs["prompt"] with { TokenWidth = 17 })).ErrorId);
    }
}
