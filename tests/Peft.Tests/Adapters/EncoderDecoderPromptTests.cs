using Peft.Adapters;
using Peft.Adapters.Methods.Cpt;
using Peft.Adapters.Methods.MultitaskPromptTuning;
using Peft.Adapters.Methods.PrefixTuning;
using Peft.Adapters.Methods.Prompts;
using Peft.Adapters.Methods.PromptTuning;
using Peft.Adapters.Methods.PTuning;
using Peft.Adapters.Model;
using Peft.Generation;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Virtual tokens and prefixes on models with an encoder and a decoder, and prompts of several tasks.</summary>
public class EncoderDecoderPromptTests
{
    private const string Task = "SEQ_2_SEQ_LM";

    private static readonly Dictionary<string, PromptConfig> s_configs = new()
    {
        ["prompt"] = new PromptTuningConfig { VirtualTokens = 3, TaskType = Task },
        ["prefix"] = new PrefixTuningConfig { VirtualTokens = 3, TaskType = Task },
        ["projected"] = new PrefixTuningConfig { VirtualTokens = 3, TaskType = Task, PrefixProjection = true },
        ["p-tuning"] = new PTuningConfig { VirtualTokens = 3, TaskType = Task },
        ["multitask"] = new MultitaskPromptTuningConfig { VirtualTokens = 3, TaskType = Task, TaskCount = 2, TaskRank = 2 },
    };

    public static IEnumerable<object[]> Cases() => s_configs.Keys.SelectMany(static name => new[] { "t5", "bart" }.Select(model => new object[] { model, name }));

    [Theory]
    [MemberData(nameof(Cases))]
    public void Rows_continue_alike_in_a_batch_alone_without_a_cache_and_among_beams(string model, string name)
    {
        using var loaded = Load(model);
        var generator = new TextGenerator(loaded);
        IReadOnlyList<int>[] prompts = [[5, 6, 7, 8], [9, 10]];
        var options = new GenerationOptions { MaxNewTokens = 7, EndOfTextIds = [47], TaskId = 1 };
        var before = generator.Generate(prompts, options).Select(static result => result.TokenIds).ToArray();
        loaded.AddAdapter(s_configs[name], seed: 4).Perturb(5, 1);
        Assert.NotEqual(before, generator.Generate(prompts, options).Select(static result => result.TokenIds));
        foreach (var searched in new[] { options, options with { BeamCount = 3 } })
        {
            var together = generator.Generate(prompts, searched);
            for (var i = 0; i < prompts.Length; i++)
            {
                Assert.Equal(generator.Generate([prompts[i]], searched)[0].TokenIds, together[i].TokenIds);
                Assert.Equal(generator.Generate([prompts[i]], searched with { UseCache = false })[0].TokenIds, together[i].TokenIds);
            }
        }
    }

    [Fact]
    public void Each_row_has_the_prompt_of_its_own_task()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new MultitaskPromptTuningConfig { VirtualTokens = 3, TaskType = "CAUSAL_LM", TaskCount = 2 }, seed: 3).Perturb(6, 1);
        var inputs = TinyLlama.Inputs();
        Assert.Equal("TaskIdsMissing", Assert.Throws<PeftException>(() => ModelRun.Logits(model, inputs)).ErrorId);
        using var mixed = Logits([1, 0]);
        using var first = Logits([1, 1]);
        using var second = Logits([0, 0]);
        Assert.True(mixed[0].allclose(first[0]) && mixed[1].allclose(second[1]));
        Assert.False(first[0].allclose(second[0]));

        Tensor Logits(long[] tasks) => ModelRun.Logits(model, new Dictionary<string, Tensor>(inputs) { ["task_ids"] = tensor(tasks) });
    }

    [Fact]
    public void A_moved_prompt_is_saved_where_it_stands_and_stays_within_its_reach()
    {
        using var model = TinyLlama.Create();
        var config = new CptConfig { TokenIds = [3, 4, 5], TokenTypes = [1, 2, 4], TaskType = "CAUSAL_LM", InputReach = 0.5, TemplateReach = 0.25 };
        var adapter = model.AddAdapter(config, "moved", seed: 3).Perturb(6, 1);
        using var before = ModelRun.Logits(model, TinyLlama.Inputs());
        var moves = linalg.vector_norm(adapter.TrainableParameters[0].Parameter.Data, 2, [1]).data<float>().ToArray();
        var scale = Math.Sqrt(16 / 2048.0);
        Assert.Equal(0.25 * scale, moves[0], 1e-6);
        Assert.Equal(0.5 * scale, moves[1], 1e-6);
        Assert.InRange(moves[2], 0, 1e-9);
        var folder = Directory.CreateTempSubdirectory("peft-cpt-").FullName;
        try
        {
            model.SaveAdapter("moved", folder);
            model.LoadAdapter(folder, "again");
            model.SetActive("again");
            using var after = ModelRun.Logits(model, TinyLlama.Inputs());
            Assert.True(after.allclose(before, 1e-5, 1e-6));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static PeftModel Load(string model) => PeftModel.Load(Path.Combine(RepositoryRoot.Folder, "tests", "references", "generation", model));
}
