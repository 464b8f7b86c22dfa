using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Tests.Adapters;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Sweeps;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Several adapters that are trained side by side, in passes that they share over one base, end as each does alone.</summary>
public class SideBySideTests
{
    private static readonly TrainingOptions s_options = new() { LearningRate = 2e-2, BatchSize = 2, GradientAccumulation = 2, MaxSteps = 6, Seed = 5 };

    private static readonly (string Config, TrainingOptions Options, int Rows)[] s_sweep =
    [
        ("""{"peft_type":"LORA","r":2,"target_modules":"all-linear"}""", s_options, 12),
        ("""{"peft_type":"LORA","r":5,"lora_dropout":0.4,"lora_bias":true,"target_modules":["q_proj","up_proj","down_proj"]}""", s_options with { LearningRate = 1e-2, Seed = 6, MaxSteps = 4 }, 9),
        ("""{"peft_type":"LORA","r":3,"target_modules":["embed_tokens","lm_head","v_proj"]}""", s_options with { Schedule = "cosine", BatchSize = 3, GradientAccumulation = 1, MaxSteps = 9 }, 9),
        ("""{"peft_type":"ROAD","group_size":4,"target_modules":["q_proj","v_proj"]}""", s_options with { Optimizer = "sgd", LearningRate = 0.1 }, 12),
        ("""{"peft_type":"LORA","r":2,"use_dora":true,"target_modules":["q_proj","o_proj"]}""", s_options, 12),
        ("""{"peft_type":"IA3","target_modules":["k_proj","down_proj"],"feedforward_modules":["down_proj"]}""", s_options, 12),
        ("""{"peft_type":"LORA","r":2,"target_modules":["q_proj"],"modules_to_save":["norm"]}""", s_options, 12),
    ];

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Each_ends_with_the_weights_it_has_alone(bool checkpointing)
    {
        using var together = Model();
        var requests = s_sweep.Select((_, i) => Request(together, i, checkpointing)).ToArray();
        var records = new Trainer(requests).TrainAll();
        Assert.Equal(s_sweep.Select(static entry => entry.Options.MaxSteps), records.Select(static record => record.StepCount));
        for (var i = 0; i < s_sweep.Length; i++)
        {
            using var alone = Model();
            var expected = new Trainer(Request(alone, i, checkpointing)).Train();
            Assert.All(expected.Losses.Zip(records[i].Losses), pair => Assert.Equal(pair.First, pair.Second, 2e-4));
            Assert.Equal(expected.Steps.Select(static step => step.Targets), records[i].Steps.Select(static step => step.Targets));
            Assert.All(
                alone[$"a{i}"].TrainableParameters.Zip(together[$"a{i}"].TrainableParameters),
                pair => Assert.True(pair.First.Parameter.Data.allclose(pair.Second.Parameter.Data, 1e-3, 2e-4), $"{s_sweep[i].Config} {pair.First.FullKey}"));
        }
    }

    [Theory]
    [InlineData(64, true)]
    [InlineData(300, false)]
    public void Steps_of_which_no_two_fit_into_a_pass_are_made_one_training_after_another(int length, bool turns)
    {
        using var model = Model();
        List<string> order = [];
        var data = new RandomRows(4, TinyLlama.Vocabulary, length);
        new Sweep([.. new[] { "a", "b" }.Select(name =>
        {
            model.AddAdapter(Config("""{"peft_type":"LORA","r":2,"target_modules":["q_proj"]}"""), name, 1);
            return new TrainingRequest { Model = model, AdapterName = name, Data = data, Options = s_options with { BatchSize = 1, GradientAccumulation = 1, MaxSteps = 2 }, AfterStep = _ => order.Add(name) };
        })]).Run();
        Assert.Equal(turns ? ["a", "b", "a", "b"] : ["a", "a", "b", "b"], order);
    }

    [Fact]
    public void Packed_rows_share_passes_too()
    {
        using var together = Model();
        using var alone = Model();
        var data = new Packed();
        TrainingRequest Of(PeftModel model, string name) => new() { Model = model, AdapterName = name, Data = data, Options = s_options with { GradientAccumulation = 1 } };
        foreach (var model in new[] { together, alone })
        {
            model.AddAdapter(Config("""{"peft_type":"LORA","r":2,"target_modules":"all-linear"}"""), "a", 1);
            model.AddAdapter(Config("""{"peft_type":"LORA","r":3,"target_modules":"all-linear"}"""), "b", 2);
        }

        var records = new Trainer([Of(together, "a"), Of(together, "b")]).TrainAll();
        Assert.All(new Trainer(Of(alone, "b")).Train().Losses.Zip(records[1].Losses), pair => Assert.Equal(pair.First, pair.Second, 2e-4));
    }

    [Fact]
    public void Passes_are_shared_where_methods_select_by_rows()
    {
        using var model = Model();
        var shared = s_sweep.Select((_, i) => Request(model, i, checkpointing: false)).Select(request => SharedPass.CanTake(request, new TrainedPart(model, request.AdapterName), new Peft.Training.Objectives.CausalLanguageModelling()));
        Assert.Equal([true, true, true, true, false, false, false], shared);
    }

    [Fact]
    public void Where_one_is_stopped_all_keep_their_last_whole_step()
    {
        using var folder = new TemporaryFolder();
        using var model = Model();
        using var stop = new CancellationTokenSource();
        var requests = Enumerable.Range(0, 2).Select(i => Request(model, i, checkpointing: false) with { OutputPath = folder.Path }).ToArray();
        requests[1] = requests[1] with { AfterStep = steps => { if (steps == 2) { stop.Cancel(); } } };
        Assert.Throws<OperationCanceledException>(() => new Trainer(requests).TrainAll(stop.Token));
        Assert.Equal(2, model["a0"].TrainingRecord!.StepCount);
        var whole = new Trainer(requests.Select(static request => request with { Resume = true, AfterStep = null }).ToArray()).TrainAll();
        Assert.Equal([2, 2], whole.Select(static record => record.ResumedFrom));
        using var alone = Model();
        Assert.All(new Trainer(Request(alone, 1, checkpointing: false)).Train().Losses.Zip(whole[1].Losses), pair => Assert.Equal(pair.First, pair.Second, 2e-4));
    }

    [Fact]
    public void Trainings_that_can_not_run_side_by_side_are_refused()
    {
        using var model = Model();
        var request = Request(model, 0, checkpointing: false);
        Assert.Equal("TrainingsUnfit", Assert.Throws<PeftException>(() => new Trainer([request, request])).ErrorId);
        Assert.Equal("TrainingsUnfit", Assert.Throws<PeftException>(() => new Trainer([request, request with { AdapterName = null }])).ErrorId);
    }

    private static PeftModel Model() => TinyLlama.Create();

    private static AdapterConfig Config(string json) => AdapterConfig.FromJson((JsonObject)JsonNode.Parse(json)!) with { TaskType = "CAUSAL_LM" };

    private static TrainingRequest Request(PeftModel model, int i, bool checkpointing)
    {
        var (config, options, rows) = s_sweep[i];
        var name = $"a{i}";
        model.AddAdapter(Config(config), name, (ulong)i + 1);
        return new TrainingRequest
        {
            Model = model,
            AdapterName = name,
            Data = new RandomRows(rows, TinyLlama.Vocabulary, 6 + i),
            Options = options with { GradientCheckpointing = checkpointing },
        };
    }

    private sealed class Packed : ITrainingData
    {
        private readonly IReadOnlyList<TokenRow> _rows = Packing.Pack(
            [.. Enumerable.Range(0, 20).Select(row => Enumerable.Range(0, 3 + (row % 4)).Select(i => 3 + ((row * 7) + i) % (TinyLlama.Vocabulary - 3)).ToArray()).Select(static ids => new TokenRow(ids, ids))], 12, PackingStrategy.BestFit);

        public int Count => _rows.Count;

        public string Fingerprint => "packed";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) => Collator.Flattened([.. rows.Select(row => _rows[row])], 0, device);
    }
}
