using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Tests.Golden;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Objectives;
using Peft.Training.Policy;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

public sealed class PolicyTests(Xunit.Abstractions.ITestOutputHelper log)
{
    private static readonly TrainingOptions s_options = new()
    {
        Objective = "grpo",
        ObjectiveOptions = new JsonObject { ["num_generations"] = 4, ["max_completion_length"] = 4 },
        LearningRate = 1e-2,
        BatchSize = 8,
        MaxSteps = 4,
        Seed = 5,
        Schedule = "constant",
    };

    private static readonly string[] s_prompts = ["The king said", "Once there was", "She went home and", "He came to the"];

    private static readonly Reward s_digits = new("digits", static answer => Digits(answer.Text));

    [Fact]
    public void A_reward_for_digits_raises_their_share_from_under_5_to_over_90_percent()
    {
        using var model = Model();
        var options = s_options with
        {
            ObjectiveOptions = new JsonObject { ["num_generations"] = 16, ["max_completion_length"] = 6, ["epsilon_high"] = 0.28 },
            LearningRate = 5e-3,
            BatchSize = 64,
            MaxSteps = 16,
            Schedule = "constant_with_warmup",
            Warmup = 3,
        };
        var before = new TextGenerator(model).Generate([.. Enumerable.Repeat(s_prompts, 128).SelectMany(static some => some)], new GenerationOptions { MaxNewTokens = 6, Sample = true, Seed = 1 });
        var share = before.Average(static answer => Digits(answer.Text));
        Assert.True(share < 0.05, $"answers have {share:P1} of digits before");
        var record = Train(model, options, [s_digits]);
        double[] rewards = [.. record.Steps.Select(static step => step.Metrics!["reward"])];
        log.WriteLine($"{string.Join(" ", rewards.Select(static reward => reward.ToString("0.00", System.Globalization.CultureInfo.InvariantCulture)))} in {record.Duration.TotalSeconds:F1} s");
        Assert.True(rewards[^1] > 0.9, $"the last answers have {rewards[^1]:P0} of digits");
    }

    [Fact]
    public void A_training_that_was_stopped_between_steps_of_the_same_answers_goes_on_to_the_same_bits()
    {
        using var folder = new TemporaryFolder();
        var options = s_options with { ObjectiveOptions = new JsonObject { ["num_generations"] = 4, ["max_completion_length"] = 4, ["num_iterations"] = 3, ["beta"] = 0.04 }, MaxSteps = 7 };
        using var whole = Model();
        var expected = Train(whole, options, [s_digits]);

        using var model = Model();
        using var stop = new CancellationTokenSource();
        var request = Request(model, options, [s_digits]) with { OutputPath = folder.Path, OnStep = details => Stop(details.Step) };
        Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(request).Train(stop.Token));
        using var again = Model();
        var resumed = new Trainer(Request(again, options, [s_digits]) with { OutputPath = folder.Path, Resume = true }).Train();
        Assert.InRange(resumed.ResumedFrom, 4, 5);
        Assert.Equal(expected.Losses, resumed.Losses);
        Assert.Equal(Weights(whole), Weights(again));
        Assert.Equal(["step-1.jsonl", "step-4.jsonl", "step-7.jsonl"], Directory.GetFiles(Path.Combine(folder.Path, "policy", "completions")).Select(Path.GetFileName).Order());

        void Stop(int step)
        {
            if (step == 4)
            {
                stop.Cancel();
            }
        }
    }

    [Theory]
    [InlineData("grpo", "{ \"loss_type\": \"dr_grpo\", \"temperature\": 0.7, \"top_k\": 50 }")]
    [InlineData("grpo", "{ \"loss_type\": \"grpo\", \"beta\": 0.1, \"scale_rewards\": \"batch\", \"mask_truncated_completions\": true }")]
    [InlineData("rloo", "{ \"normalize_advantages\": true }")]
    public void Each_loss_learns_from_rated_answers_and_states_its_figures(string objective, string own)
    {
        using var model = Model();
        var values = JsonNode.Parse(own)!.AsObject();
        (values["num_generations"], values["max_completion_length"]) = (4, 4);
        List<RatedCompletion> seen = [];
        var options = s_options with { Objective = objective, ObjectiveOptions = values, GradientAccumulation = 2, MaxSteps = 2 };
        var made = new PolicyObjective(options, [s_digits, new Reward("silent", static _ => null)]) { OnRated = seen.AddRange };
        var record = new Trainer(Request(model, options, []) with { Objective = made }).Train();
        Assert.Equal(objective, record.Objective);
        Assert.Equal(32, seen.Count);
        Assert.All(record.Steps, static step => Assert.True(double.IsFinite(step.Loss)));
        Assert.Contains("rewards/digits/mean", record.Steps[0].Metrics!.Keys);
        Assert.DoesNotContain("rewards/silent/mean", record.Steps[0].Metrics!.Keys);
        Assert.Contains("completions/mean_length", record.Steps[0].Metrics!.Keys);
        Assert.All(seen.Take(16).Chunk(4), static group => Assert.Single(group.Select(static answer => answer.Completion.Prompt.Index).Distinct()));
    }

    [Fact]
    public void Advantages_are_relative_to_the_group()
    {
        double[] rewards = [1, 2, 3, 6, 0, 0, 0, 0];
        // The sample deviation of 1, 2, 3, 6 is the root of 14 / 3.
        var spread = Math.Sqrt(14.0 / 3) + 1e-4;
        double[] expected = [-2 / spread, -1 / spread, 0, 3 / spread, 0, 0, 0, 0];
        Assert.Equal(expected, RewardStatistics.Relative(rewards, 4, "group"), static (left, right) => Math.Abs(left - right) < 1e-12);
        Assert.Equal([-2, -1, 0, 3, 0, 0, 0, 0], RewardStatistics.Relative(rewards, 4, "none"));
        var leaveOneOut = (IPolicyLoss)ObjectiveRegistry.Create(new TrainingOptions { Objective = "rloo", ObjectiveOptions = new JsonObject { ["num_generations"] = 4 } });
        Assert.Equal([1 - (11 / 3.0), 2 - (10 / 3.0), 0, 6 - 2, 0, 0, 0, 0], leaveOneOut.Advantages(rewards), static (left, right) => Math.Abs(left - right) < 1e-12);
    }

    [Fact]
    public void Micro_batches_of_answers_add_up_to_the_step()
    {
        using var whole = Model();
        using var cut = Model();
        var one = Train(whole, s_options with { MaxSteps = 1, BatchSize = 8 }, [s_digits, new Reward("length", static answer => answer.Text.Length)]);
        var two = Train(cut, s_options with { MaxSteps = 1, BatchSize = 4, GradientAccumulation = 2 }, [s_digits, new Reward("length", static answer => answer.Text.Length)]);
        Assert.Equal(one.Steps[0].GradientNorm, two.Steps[0].GradientNorm, 1e-4 * one.Steps[0].GradientNorm);
    }

    [Fact]
    public void A_reward_that_is_no_number_names_the_answer()
    {
        using var model = Model();
        var error = Assert.Throws<PeftException>(() => Train(model, s_options, [new Reward("bad", static _ => double.NaN)]));
        Assert.Equal("RewardInvalid", error.ErrorId);
        Assert.Contains("'bad'", error.Message, StringComparison.Ordinal);
        Assert.Contains("row", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_batch_that_groups_cannot_share_is_refused()
    {
        var error = Assert.Throws<PeftException>(() => new PolicyObjective(s_options with { BatchSize = 6 }, [s_digits]));
        Assert.Equal(("TrainingOptionInvalid", (object)"num_generations"), (error.ErrorId, error.Target!));
    }

    [Fact]
    public void Answers_to_prompts_that_are_set_apart_are_measured_and_not_learnt()
    {
        using var model = Model();
        var record = Train(model, s_options with { EvaluationSplit = 0.5, EvaluationInterval = 2 }, [s_digits]);
        Assert.Equal([2, 4], record.Evaluations.Select(static evaluation => evaluation.Step));
        Assert.All(record.Evaluations, static evaluation => Assert.Contains("reward", evaluation.Metrics!.Keys));
    }

    private static double Digits(string text) => text.Length == 0 ? 0 : (double)text.Count(char.IsAsciiDigit) / text.Length;

    private static float[] Weights(PeftModel model) =>
        [.. model["policy"].TrainableParameters.SelectMany(static parameter => parameter.Parameter.Data.contiguous().data<float>().ToArray())];

    private static PeftModel Model()
    {
        var model = PeftModel.Load(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama"), new Peft.Models.LoadOptions { DataType = ScalarType.Float32 });
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, "policy", 3);
        return model;
    }

    private static TrainingRecord Train(PeftModel model, TrainingOptions options, IReadOnlyList<IReward> rewards) => new Trainer(Request(model, options, rewards)).Train();

    private static TrainingRequest Request(PeftModel model, TrainingOptions options, IReadOnlyList<IReward> rewards) => new()
    {
        Model = model,
        AdapterName = "policy",
        Data = TrainingDataset.FromLines(s_prompts).Prompts(model.RequiredTokenizer),
        Options = options,
        Objective = rewards.Count == 0 ? null : new PolicyObjective(options, rewards),
    };
}
