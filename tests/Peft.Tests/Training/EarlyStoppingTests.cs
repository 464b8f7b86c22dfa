using Peft.Adapters.Model;
using Peft.Tests.Adapters;
using Peft.Training;
using Peft.Training.Evaluation;

namespace Peft.Tests.Training;

public sealed class EarlyStoppingTests
{
    // A rate at which the loss on rows that aren't learnt soon rises.
    private static readonly TrainingOptions s_options = new()
    {
        LearningRate = 5e-2, BatchSize = 2, MaxSteps = 40, Seed = 5, Schedule = "constant", EvaluationInterval = 2, CheckpointInterval = 0, EarlyStoppingPatience = 3, EvaluationSplit = 0.4,
    };

    [Fact]
    public void A_training_stops_after_evaluations_that_are_not_better_and_ends_with_the_best_weights()
    {
        using var model = TrainerTests.Model();
        List<(int Step, float[] Weights)> seen = [];
        var record = new Trainer(Request(model, s_options) with { OnStep = details => seen.Add((details.Step, TrainerTests.Weights(model))) }).Train();
        var best = record.BestEvaluation!.Value;
        Assert.True(record.StepCount < 40, "it stopped early");
        Assert.Equal(best.Step + (3 * 2), record.StepCount);
        Assert.Equal(best.Step, record.KeptStep);
        Assert.Contains(record.Messages, message => message.Contains("Stopped after step", StringComparison.Ordinal));

        // What a step begins with is what the one before it ended with.
        Assert.Equal(seen.Single(entry => entry.Step == best.Step).Weights, TrainerTests.Weights(model));
    }

    [Fact]
    public void The_best_weights_of_a_training_that_was_stopped_come_from_their_checkpoint()
    {
        using var folder = new TemporaryFolder();
        using var whole = TrainerTests.Model();
        var expected = new Trainer(Request(whole, s_options)).Train();
        using var model = TrainerTests.Model();
        using var stop = new CancellationTokenSource();
        var request = Request(model, s_options with { CheckpointLimit = 1 }) with { OutputPath = folder.Path };
        Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(request with { OnStep = details => StopAt(details.Step) }).Train(stop.Token));
        using var again = TrainerTests.Model();
        var record = new Trainer(request with { Model = again, Resume = true }).Train();
        Assert.Equal(expected.Losses, record.Losses);
        Assert.Equal(expected.KeptStep, record.KeptStep);
        Assert.Equal(TrainerTests.Weights(whole), TrainerTests.Weights(again));

        // Once more there is nothing left to do, and the result is the same.
        using var third = TrainerTests.Model();
        Assert.Equal(expected.StepCount, new Trainer(request with { Model = third, Resume = true }).Train().StepCount);
        Assert.Equal(TrainerTests.Weights(whole), TrainerTests.Weights(third));

        void StopAt(int step)
        {
            if (step == expected.KeptStep + 3)
            {
                stop.Cancel();
            }
        }
    }

    [Fact]
    public void The_threshold_and_the_direction_of_a_figure_count()
    {
        EvaluationRecord[] evaluations = [.. new[] { 0.5, 0.6, 0.61, 0.55 }.Select(static (value, i) => new EvaluationRecord(i + 1, i, 1) { Metrics = new Dictionary<string, double> { ["accuracy"] = value } })];
        var options = new TrainingOptions { BestMetric = "eval_accuracy", GreaterIsBetter = true, EarlyStoppingThreshold = 0.05 };
        var standing = EvaluationStanding.Of(evaluations, options);
        Assert.Equal((3, 2), (standing.Best!.Value.Step, standing.Waited));
        Assert.Equal(1, EvaluationStanding.Of(evaluations, options with { GreaterIsBetter = false }).Best!.Value.Step);
        var error = Assert.Throws<PeftException>(() => EvaluationStanding.Of(evaluations, options with { BestMetric = "f1" }));
        Assert.Contains("accuracy", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Without_an_evaluation_there_is_no_best_one()
    {
        using var model = TrainerTests.Model();
        var error = Assert.Throws<PeftException>(() => new Trainer(Request(model, s_options with { EvaluationSplit = 0 })).Train());
        Assert.Equal(("TrainingOptionInvalid", (object)"early_stopping_patience"), (error.ErrorId, error.Target!));
    }

    [Fact]
    public void Checkpoints_and_evaluations_come_by_epoch_or_time()
    {
        using var folder = new TemporaryFolder();
        using var model = TrainerTests.Model();
        var options = s_options with
        {
            EarlyStoppingPatience = null, EvaluationStrategy = "time", EvaluationSeconds = 1e-9, CheckpointStrategy = "epoch", CheckpointLimit = 9, MaxSteps = -1, Epochs = 3,
        };
        var record = new Trainer(Request(model, options) with { OutputPath = folder.Path }).Train();
        Assert.Equal(record.StepCount, record.Evaluations.Count);
        var perEpoch = record.StepCount / 3;
        Assert.Equal([$"step-{perEpoch}", $"step-{2 * perEpoch}", $"step-{3 * perEpoch}"], Directory.GetDirectories(Path.Combine(folder.Path, "tuned", "checkpoints"), "step-*").Select(Path.GetFileName).Order());
    }

    [Fact]
    public void A_loss_that_is_no_number_says_where_of_what_and_why()
    {
        using var model = TrainerTests.Model();
        var options = s_options with { LearningRate = 1e25, MaxGradientNorm = 0, Optimizer = "sgd", EarlyStoppingPatience = null };
        var error = Assert.Throws<PeftException>(() => new Trainer(Request(model, options)).Train());
        Assert.Equal("TrainingDiverged", error.ErrorId);
        Assert.Matches(@"^In step \d+ the loss is .*, learnt were row \d+; row \d+, the weights are those of step \d+: the training has diverged\. Likely cause: ", error.Message);
        Assert.Contains("max_grad_norm is 0", error.Message, StringComparison.Ordinal);
    }

    private static TrainingRequest Request(PeftModel model, TrainingOptions options) => TrainerTests.Request(model, options, new RandomRows(10, TinyLlama.Vocabulary));
}
