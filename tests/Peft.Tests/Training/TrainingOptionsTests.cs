using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Training;

namespace Peft.Tests.Training;

public class TrainingOptionsTests
{
    [Fact]
    public void Options_survive_their_file_with_keys_that_nobody_here_knows()
    {
        var options = new TrainingOptions
        {
            LearningRate = 6e-3,
            Epochs = 2.5,
            Schedule = "cosine_with_min_lr",
            ScheduleOptions = new JsonObject { ["min_lr_rate"] = 0.1 },
            Precision = "bfloat16",
        };
        var json = JsonNode.Parse(options.ToJson())!.AsObject();
        Assert.Equal(6e-3, (double)json["learning_rate"]!);
        json["hub_model_id"] = "somebody/model";

        var again = TrainingOptions.FromJson(json.ToJsonString());
        Assert.Equal(2.5, again.Epochs);
        Assert.Equal(json.ToJsonString(), JsonNode.Parse(again.ToJson())!.ToJsonString());
    }

    [Fact]
    public void Keys_without_a_use_are_named_with_what_they_may_mean()
    {
        Assert.Null(new TrainingOptions().Unused);
        Assert.Null(TrainingOptions.FromJson(new TrainingOptions().ToJson()).Unused);
        var unused = TrainingOptions.FromJson("{\"learning_rat\": 1, \"hub_model_id\": \"somebody/model\"}").Unused;
        Assert.Equal("Of the training options nothing is done with learning_rat (did you mean learning_rate?), hub_model_id.", unused);
    }

    [Fact]
    public void Defaults_are_valid() => new TrainingOptions().Validate();

    [Theory]
    [InlineData("""{"learning_rate": -1}""", "learning_rate")]
    [InlineData("""{"max_steps": 0}""", "max_steps")]
    [InlineData("""{"num_train_epochs": 0}""", "num_train_epochs")]
    [InlineData("""{"gradient_accumulation_steps": 0}""", "gradient_accumulation_steps")]
    [InlineData("""{"label_smoothing_factor": 1}""", "label_smoothing_factor")]
    [InlineData("""{"eval_split": 1.5}""", "eval_split")]
    [InlineData("""{"precision": "float8"}""", "precision")]
    [InlineData("""{"lr_scheduler_kwargs": {"cycles": 3}}""", "cycles")]
    [InlineData("""{"lr_scheduler_type": "cosine_with_min_lr"}""", "min_lr")]
    public void A_value_that_cannot_be_is_named(string json, string name) =>
        Assert.Contains(name, Assert.Throws<PeftException>(() => TrainingOptions.FromJson(json).Validate()).Message, StringComparison.Ordinal);

    [Fact]
    public void Text_that_is_no_json_is_an_error_of_ours() =>
        Assert.Equal("TrainingOptionInvalid", Assert.Throws<PeftException>(() => TrainingOptions.FromJson("{learning_rate")).ErrorId);

    [Theory]
    [InlineData(0.1, 25, 3)]
    [InlineData(0.17, 100, 17)]
    [InlineData(5, 20, 5)]
    [InlineData(5.9, 20, 5)]
    public void Warmup_below_one_is_a_share_rounded_up(double warmup, int total, int steps) =>
        Assert.Equal(steps, new TrainingOptions { Warmup = warmup }.WarmupStepsOf(total));

    [Theory]
    [InlineData("linear", 0, null)]
    [InlineData("linear", 0.5, null)]
    [InlineData("linear", 19, null)]
    [InlineData("linear", 20, "doesn't reach")]
    [InlineData("cosine", 100, "doesn't reach")]
    [InlineData("constant", 5, "constant_with_warmup")]
    [InlineData("constant_with_warmup", 5, null)]
    public void A_warmup_that_is_left_out_or_takes_all_steps_is_said(string schedule, double warmup, string? said)
    {
        var note = new TrainingOptions { Schedule = schedule, Warmup = warmup }.WarmupNote(20);
        if (said is null)
        {
            Assert.Null(note);
        }
        else
        {
            Assert.Contains(said, note, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("ja-JP")]
    [InlineData("tr-TR")]
    [InlineData("de-DE")]
    public void Files_are_the_same_in_every_culture(string culture)
    {
        var invariant = new TrainingOptions { LearningRate = 1.5e-4 }.ToJson();
        var before = CultureInfo.CurrentCulture;
        try
        {
            CultureInfo.CurrentCulture = CultureInfo.GetCultureInfo(culture);
            Assert.Equal(invariant, new TrainingOptions { LearningRate = 1.5e-4 }.ToJson());
            Assert.Equal(1.5e-4, TrainingOptions.FromJson(invariant).LearningRate);
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Theory]
    [InlineData("lr_scheduler_type")]
    [InlineData("optim")]
    [InlineData("objective")]
    public void A_name_that_is_null_is_refused(string key) =>
        Assert.Equal("TrainingOptionInvalid", Assert.Throws<PeftException>(() => Peft.Training.TrainingOptions.FromJson($"{{\"{key}\": null}}")).ErrorId);
}
