using Peft.Adapters.Methods.AdaLora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Tests.Adapters;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>AdaLoRA's budget in training: it falls, what it takes away is not saved, and a training that was stopped goes on with what was measured.</summary>
public sealed class AdaLoraTrainingTests
{
    private static readonly TrainingOptions s_options = new() { LearningRate = 2e-2, BatchSize = 2, MaxSteps = 8, Seed = 5, Schedule = "constant" };

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(5)]
    [InlineData(7)]
    public void A_training_goes_on_with_what_was_measured(int stoppedAfter) => TrainerTests.GoesOnAfter(stoppedAfter, Model, s_options);

    [Fact]
    public void What_the_budget_took_away_is_not_saved_and_the_rest_computes_the_same()
    {
        using var folder = new TemporaryFolder();
        using var model = Model();
        new Trainer(TrainerTests.Request(model, s_options)).Train();
        model.SaveAdapter("tuned", folder.Path);
        using var before = ModelRun.Logits(model, TinyLlama.Inputs());
        using var other = TinyLlama.Create();
        var loaded = other.LoadAdapter(folder.Path);
        Assert.Equal(2 * loaded.Adapter.Layers.Count, loaded.Adapter.Layers.Sum(static layer => (int)layer.Adapter.Parameters.Single(static parameter => parameter.Key == "lora_E").Parameter.Count));
        Assert.Equal(8, ((AdaLoraConfig)loaded.Config).TotalSteps);
        using var after = ModelRun.Logits(other, TinyLlama.Inputs());
        Assert.True(before.sub(after).abs().max().item<float>() < 1e-5);
    }

    [Fact]
    public void A_training_too_short_for_the_schedule_is_refused_before_it_begins()
    {
        using var model = Model();
        var error = Assert.Throws<PeftException>(() => new Trainer(TrainerTests.Request(model, s_options with { MaxSteps = 3 })).Train());
        Assert.Equal("AdaLoraScheduleInvalid", error.ErrorId);
    }

    private static PeftModel Model()
    {
        var model = TinyLlama.Create();
        model.AddAdapter(new AdaLoraConfig { TargetModules = ModuleNames.Of("q_proj", "down_proj"), InitialRank = 4, TargetRank = 2, WarmupSteps = 1, FinalSteps = 2 }, "tuned", seed: 3);
        return model;
    }
}
