using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Tests.Adapters;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

public sealed class PreferenceTests
{
    private static readonly TrainingOptions s_options = new() { Objective = "dpo", LearningRate = 2e-2, BatchSize = 2, MaxSteps = 12, Seed = 5, Schedule = "constant" };

    [Fact]
    public void The_model_learns_to_prefer_the_chosen_answers()
    {
        using var model = TrainerTests.Model();
        var record = new Trainer(Request(model, s_options)).Train();
        Assert.Equal(Math.Log(2), record.Losses[0], 1e-5);
        Assert.True(record.FinalLoss < 0.3, $"the loss is {record.FinalLoss}");
        Assert.Equal(1, record.Steps[^1].Metrics!["rewards/accuracies"]);
        Assert.Equal("dpo", record.Objective);
    }

    [Fact]
    public void An_adapter_that_has_learnt_before_is_compared_with_itself_at_the_start()
    {
        using var model = TrainerTests.Model();
        new Trainer(Request(model, s_options)).Train();
        var weights = TrainerTests.Weights(model);
        var from = new Trainer(Request(model, s_options with { MaxSteps = 1, LearningRate = 0 }) with { Reference = ReferenceKind.Start }).Train();
        Assert.Equal(Math.Log(2), from.FinalLoss, 1e-5);
        Assert.Equal(weights, TrainerTests.Weights(model));
        var fromBase = new Trainer(Request(model, s_options with { MaxSteps = 1, LearningRate = 0 })).Train();
        Assert.True(fromBase.FinalLoss < 0.3);
        Assert.Equal(weights, TrainerTests.Weights(model));
    }

    [Fact]
    public void A_training_that_was_stopped_goes_on_against_the_reference_it_began_with()
    {
        using var folder = new TemporaryFolder();
        var options = s_options with { MaxSteps = 6, LearningRate = 1e-2 };
        using var whole = Learnt();
        var expected = new Trainer(Request(whole, options) with { Reference = ReferenceKind.Start }).Train();

        using var model = Learnt();
        using var stop = new CancellationTokenSource();
        var data = new RandomPairs(4, TinyLlama.Vocabulary) { Before = batch => TrainerTests.StopAt(batch, 3, stop) };
        var request = Request(model, options) with { Reference = ReferenceKind.Start, OutputPath = folder.Path };
        Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(request with { Data = data }).Train(stop.Token));

        // The adapter in memory has learnt since, so that what the first run began with is in the checkpoint alone.
        var record = new Trainer(request with { Resume = true }).Train();
        Assert.Equal(3, record.ResumedFrom);
        Assert.Equal(expected.Losses, record.Losses);
        Assert.Equal(expected.Steps.Select(step => step.Metrics!["rewards/margins"]), record.Steps.Select(step => step.Metrics!["rewards/margins"]));
        Assert.Equal(TrainerTests.Weights(whole), TrainerTests.Weights(model));

        static PeftModel Learnt()
        {
            var model = TrainerTests.Model();
            new Trainer(Request(model, s_options with { MaxSteps = 2 })).Train();
            return model;
        }
    }

    [Fact]
    public void Data_of_another_kind_is_refused()
    {
        using var model = TrainerTests.Model();
        var texts = TrainerTests.Request(model, s_options);
        Assert.Equal("ObjectiveDataMismatch", Assert.Throws<PeftException>(() => new Trainer(texts).Train()).ErrorId);
        var pairs = Request(model, s_options with { Objective = "causal_language_modelling" });
        Assert.Equal("ObjectiveDataMismatch", Assert.Throws<PeftException>(() => new Trainer(pairs).Train()).ErrorId);
    }

    [Fact]
    public void An_objective_may_make_its_own_batches()
    {
        using var model = TrainerTests.Model();
        var objective = new Doubling();
        var record = new Trainer(TrainerTests.Request(model, new TrainingOptions { MaxSteps = 3, BatchSize = 2, Seed = 5 }) with { Objective = objective }).Train();
        Assert.Equal(6, objective.Losses);
        Assert.Equal([0, 1, 2], objective.Steps);
        Assert.All(record.Steps, step => Assert.True(step.Loss > 1));
    }

    /// <summary>Learns every batch twice.</summary>
    private sealed class Doubling : IObjective
    {
        private readonly CausalLanguageModelling _inner = new();

        public int Losses { get; private set; }

        public List<int> Steps { get; } = [];

        public string Name => "doubling";

        public IReadOnlyList<TrainingBatch> MakeBatches(IReadOnlyList<TrainingBatch> batches, BatchMaking making)
        {
            Steps.Add(making.Step);
            return [.. batches.SelectMany(batch => new[] { batch, batch with { InputIds = batch.InputIds.clone(), Labels = batch.Labels.clone(), AttentionMask = batch.AttentionMask?.clone() } })];
        }

        public Tensor Loss(ObjectivePass pass)
        {
            Losses++;
            return _inner.Loss(pass);
        }
    }

    [Theory]
    [InlineData("loss_type", "\"sigmoidal\"")]
    [InlineData("loss_type", "[]")]
    [InlineData("loss_weights", "[1, 2]")]
    [InlineData("beta", "0")]
    [InlineData("label_smoothing", "0.5")]
    public void A_wrong_option_is_named(string name, string value)
    {
        var options = s_options with { ObjectiveOptions = new JsonObject { [name] = JsonNode.Parse(value) } };
        var error = Assert.Throws<PeftException>(options.Validate);
        Assert.Equal("TrainingOptionInvalid", error.ErrorId);
        Assert.Equal(name, error.Target);
    }

    [Fact]
    public void Every_objective_is_made_by_its_own_name()
    {
        foreach (var name in ObjectiveRegistry.Names)
        {
            Assert.Equal(name, ObjectiveRegistry.Create(new TrainingOptions { Objective = name }).Name);
        }
    }

    private static TrainingRequest Request(PeftModel model, TrainingOptions options) => TrainerTests.Request(model, options, new RandomPairs(4, TinyLlama.Vocabulary));
}
