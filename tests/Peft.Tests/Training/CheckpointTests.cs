using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Engine;
using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Training;
using Peft.Training.Checkpoints;

namespace Peft.Tests.Training;

public sealed class CheckpointTests : IDisposable
{
    private static readonly TrainingOptions s_options = new()
    {
        LearningRate = 5e-2,
        BatchSize = 2,
        GradientAccumulation = 2,
        MaxSteps = 9,
        Seed = 5,
        Warmup = 2,
        CheckpointInterval = 2,
        CheckpointLimit = 3,
    };

    private readonly string _output = Directory.CreateTempSubdirectory("peft-checkpoints-").FullName;

    private string Adapter => Path.Combine(_output, "tuned");

    [Theory]
    [InlineData("adamw_torch", "linear", 0)]
    [InlineData("schedule_free_adamw", "constant_with_warmup", 2)]
    [InlineData("sgd", "cosine", 0)]
    [InlineData("adafactor", "reduce_lr_on_plateau", 2)]
    public void A_training_that_was_stopped_goes_on_to_the_weights_of_one_that_was_not(string optimizer, string schedule, int evaluationInterval)
    {
        var options = s_options with { Optimizer = optimizer, Schedule = schedule, EvaluationInterval = evaluationInterval, EvaluationSplit = evaluationInterval > 0 ? 0.2 : 0 };
        using var whole = TrainerTests.Model(dropout: 0.2);
        var expected = new Trainer(TrainerTests.Request(whole, options)).Train();

        using (var stopped = TrainerTests.Model(dropout: 0.2))
        {
            Stop(stopped, options, 11);
        }

        using var resumed = TrainerTests.Model(dropout: 0.2);
        var record = new Trainer(Request(resumed, options) with { Resume = true }).Train();
        Assert.InRange(record.ResumedFrom, 3, 6);
        Assert.Equal(TrainerTests.Weights(whole), TrainerTests.Weights(resumed));
        Assert.Equal(expected.Losses, record.Losses);
        Assert.Equal(expected.Evaluations, record.Evaluations);
    }

    [Fact]
    public void Stopping_leaves_the_checkpoint_of_the_last_whole_step()
    {
        using var model = TrainerTests.Model();
        Stop(model, s_options with { CheckpointInterval = 0 }, 7);
        var checkpoint = Assert.Single(Directory.GetDirectories(Path.Combine(Adapter, "checkpoints")));
        Assert.Equal("step-3", Path.GetFileName(checkpoint));
        using var other = TrainerTests.Model();
        other.LoadAdapter(checkpoint, "tuned");
        Assert.Equal(TrainerTests.Weights(model), TrainerTests.Weights(other));
    }

    [Fact]
    public void A_checkpoint_that_cannot_be_written_leaves_nothing()
    {
        var store = new CheckpointStore(_output);
        store.Save(1, static _ => { });
        Assert.Throws<InvalidOperationException>(() => store.Save(2, static folder =>
        {
            File.WriteAllText(Path.Combine(folder, "half"), "");
            throw new InvalidOperationException("cancelled in the middle");
        }));
        Assert.Equal(["step-1"], Directory.GetFileSystemEntries(_output).Select(Path.GetFileName));
    }

    [Fact]
    public void Checkpoints_beyond_the_limit_go_and_half_written_ones_are_swept_away()
    {
        Directory.CreateDirectory(Path.Combine(Adapter, "checkpoints", ".unfinished-0"));
        using var model = TrainerTests.Model();
        new Trainer(Request(model, s_options) with { Resume = true }).Train();
        Assert.Equal(["step-6", "step-8", "step-9"], Checkpoints());
    }

    [Fact]
    public void A_damaged_checkpoint_is_passed_over()
    {
        using var model = TrainerTests.Model();
        Stop(model, s_options, 11);
        Assert.Equal(["step-2", "step-4", "step-5"], Checkpoints());
        var newest = Path.Combine(Adapter, "checkpoints", "step-5", "training_state.safetensors");
        File.WriteAllBytes(newest, File.ReadAllBytes(newest)[..100]);
        File.Delete(Path.Combine(Adapter, "checkpoints", "step-4", "training_state.json"));
        using var resumed = TrainerTests.Model();
        var record = new Trainer(Request(resumed, s_options) with { Resume = true }).Train();
        Assert.Equal(2, record.ResumedFrom);
        Assert.Equal(2, record.Messages.Count(message => message.Contains("passed over", StringComparison.Ordinal)));
    }

    [SkippableFact]
    public void A_resumed_training_computes_as_it_began_and_says_where_the_user_changed_that()
    {
        Skip.If(Environment.ProcessorCount < 2 || Environment.GetEnvironmentVariable("OMP_NUM_THREADS") is { Length: > 0 }, "the number of threads can't be chosen here");
        var (fewer, more) = (1, 2);
        try
        {
            ComputeThreads.Choose(fewer);
            using var model = TrainerTests.Model();
            Stop(model, s_options, 11);
            Assert.Equal(fewer, (int)JsonNode.Parse(File.ReadAllText(Path.Combine(Adapter, "training_options.json")))!["compute"]!["threads"]!);

            // Another process, in which nobody chooses and another number would be taken.
            ComputeThreads.Forget();
            using var byDefault = ComputeThreads.Keep(more);
            using var resumed = TrainerTests.Model();
            Stop(resumed, s_options, 3, resume: true);
            Assert.Equal([fewer, null, null, null, null, null], LoggedThreads());

            ComputeThreads.Choose(more);
            using var changed = TrainerTests.Model();
            var record = new Trainer(Request(changed, s_options) with { Resume = true }).Train();
            Assert.Equal([fewer, null, null, null, null, null, more, null, null], LoggedThreads());
            Assert.Equal([(1, fewer), (7, more)], record.Steps.Where(static step => step.Compute is not null).Select(static step => (step.Step, step.Compute!.Threads)));
            Assert.Equal(more, record.Options.Compute!.Threads);
            Assert.Single(record.Messages, static message => message.Contains("step 7", StringComparison.Ordinal));
        }
        finally
        {
            ComputeThreads.Forget();
            ComputeThreads.ApplyHere();
        }

        int?[] LoggedThreads() => [.. File.ReadAllLines(Path.Combine(Adapter, "training_log.jsonl")).Select(static line => (int?)JsonNode.Parse(line)!["threads"])];
    }

    [Fact]
    public void Changed_options_and_data_are_refused_by_name()
    {
        using var model = TrainerTests.Model();
        Stop(model, s_options, 11);
        var options = Assert.Throws<PeftException>(() => new Trainer(Request(model, s_options with { LearningRate = 0.1, LoggingInterval = 7 }) with { Resume = true }).Train());
        Assert.Equal("ResumeOptionsChanged", options.ErrorId);
        Assert.Contains("learning_rate) was 0.05, is 0.1", options.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("logging_steps", options.Message, StringComparison.Ordinal);
        using var scaled = TinyLlama.Create();
        scaled.AddAdapter(new LoraConfig { Rank = 4, Alpha = 16, TargetModules = ModuleNames.AllLinear }, "tuned");
        var adapter = Assert.Throws<PeftException>(() => new Trainer(Request(scaled, s_options) with { Resume = true }).Train());
        Assert.Contains("lora_alpha was 8, is 16", adapter.Message, StringComparison.Ordinal);
        var other = Request(model, s_options) with { Resume = true, Data = new RandomRows(8, TinyLlama.Vocabulary, fingerprint: "others") };
        Assert.Equal("ResumeDataChanged", Assert.Throws<PeftException>(() => new Trainer(other).Train()).ErrorId);
    }

    [Fact]
    public void There_is_nothing_to_go_on_from_without_an_output_path()
    {
        using var model = TrainerTests.Model();
        var request = Request(model, s_options) with { Resume = true, OutputPath = null };
        Assert.Equal("TrainingOptionInvalid", Assert.Throws<PeftException>(() => new Trainer(request)).ErrorId);
    }

    [Fact]
    public void Another_base_model_and_another_precision_are_refused()
    {
        using var model = TrainerTests.Model();
        Stop(model, s_options, 11);
        using var other = TrainerTests.Model();
        other.Base.FindParameter("model.norm.weight")!.Data.mul_(2);
        var request = Request(other, s_options) with { Resume = true };
        Assert.Equal("ResumeModelChanged", Assert.Throws<PeftException>(() => new Trainer(request).Train()).ErrorId);
        using var narrow = TrainerTests.Model();
        WeightEdits.Convert(narrow.Base, TorchSharp.torch.ScalarType.BFloat16).Keep();
        request = Request(narrow, s_options) with { Resume = true };
        Assert.Equal("ResumeModelChanged", Assert.Throws<PeftException>(() => new Trainer(request).Train()).ErrorId);
    }

    [Fact]
    public void Existing_output_is_left_alone_unless_it_may_be_replaced()
    {
        using var model = TrainerTests.Model();
        new Trainer(Request(model, s_options)).Train();
        Assert.Equal("OutputExists", Assert.Throws<PeftException>(() => new Trainer(Request(model, s_options)).Train()).ErrorId);
        new Trainer(Request(model, s_options with { MaxSteps = 1 }) with { Force = true }).Train();
        Assert.Equal(["step-1"], Checkpoints());
        Assert.True(File.Exists(Path.Combine(Adapter, "adapter_model.safetensors")));
        Assert.Equal(1, TrainingOptions.FromFile(Path.Combine(Adapter, "training_options.json")).MaxSteps);
    }

    [Fact]
    public void Resuming_without_a_checkpoint_replaces_nothing_but_a_broken_off_trainings_log()
    {
        using var model = TrainerTests.Model();
        List<string> messages = [];
        var request = Request(model, s_options with { MaxSteps = 1 }) with { Resume = true, OnMessage = messages.Add };
        Directory.CreateDirectory(Adapter);
        File.WriteAllText(Path.Combine(Adapter, "training_log.jsonl"), "{\"step\":1}\n");
        new Trainer(request with { Progress = new Saying(() => Assert.Single(messages, static message => message.Contains("starts anew", StringComparison.Ordinal))) }).Train();

        Directory.Delete(Path.Combine(Adapter, "checkpoints"), recursive: true);
        var weights = File.ReadAllBytes(Path.Combine(Adapter, "adapter_model.safetensors"));
        var trainer = new Trainer(request);
        Assert.Equal("OutputExists", Assert.Throws<PeftException>(() => trainer.Train()).ErrorId);
        Assert.Equal(0, trainer.StepsMade);
        Assert.Equal(weights, File.ReadAllBytes(Path.Combine(Adapter, "adapter_model.safetensors")));
        new Trainer(request with { Force = true }).Train();
    }

    [Fact]
    public void What_cannot_be_trained_leaves_the_older_checkpoints()
    {
        using var model = TrainerTests.Model();
        new Trainer(Request(model, s_options with { MaxSteps = 1 })).Train();
        var trainer = new Trainer(Request(model, s_options with { OptimizerOptions = new JsonObject { ["no_such"] = 1 } }) with { Force = true });
        Assert.Equal("TrainingOptionUnknown", Assert.ThrowsAny<PeftException>(() => trainer.Train()).ErrorId);
        Assert.Equal(["step-1"], Checkpoints());
    }

    [Fact]
    public void A_checkpoint_on_the_way_that_can_not_be_written_is_a_warning_and_the_training_goes_on()
    {
        using var model = TrainerTests.Model();
        var data = new RandomRows(8, TinyLlama.Vocabulary);
        data.Before = batch =>
        {
            if (batch == 7)
            {
                // A file stands where the checkpoint's folder should come.
                File.WriteAllText(Path.Combine(Adapter, "checkpoints", "step-4"), "");
            }
        };
        var record = new Trainer(Request(model, s_options with { CheckpointLimit = 9 }) with { Data = data }).Train();
        Assert.Equal(s_options.MaxSteps, record.StepCount);
        Assert.Contains("step-2", Checkpoints());
        Assert.DoesNotContain("step-4", Checkpoints());
        Assert.Contains("step-6", Checkpoints());
        Assert.Equal(2, record.Messages.Count(static message => message.Contains("step-4", StringComparison.Ordinal) || message.Contains("(step 4)", StringComparison.Ordinal)));
        Assert.False(model["tuned"].TrainableParameters[0].Parameter.IsTrained);
    }

    [Theory]
    [InlineData("ja-JP")]
    [InlineData("tr-TR")]
    public void The_log_has_a_line_for_every_step_and_is_the_same_in_every_culture(string culture)
    {
        var before = CultureInfo.CurrentCulture;
        try
        {
            CultureInfo.CurrentCulture = CultureInfo.GetCultureInfo(culture);
            using var model = TrainerTests.Model();
            var record = new Trainer(Request(model, s_options)).Train();
            var lines = File.ReadAllLines(Path.Combine(Adapter, "training_log.jsonl")).Select(line => JsonNode.Parse(line)!).ToArray();
            Assert.Equal(record.Losses, lines.Select(line => (double)line["loss"]!));
            Assert.Equal(record.Steps.Select(step => step.LearningRate), lines.Select(line => (double)line["learning_rate"]!));
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    public void Dispose() => Directory.Delete(_output, recursive: true);

    private void Stop(PeftModel model, TrainingOptions options, int batch, bool resume = false)
    {
        using var stop = new CancellationTokenSource();
        var data = new RandomRows(8, TinyLlama.Vocabulary) { Before = made => TrainerTests.StopAt(made, batch, stop) };
        Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(Request(model, options) with { Data = data, Resume = resume }).Train(stop.Token));
    }

    [Fact]
    public void Where_memory_runs_out_the_error_is_our_own_and_the_last_whole_step_is_kept()
    {
        using var model = TrainerTests.Model();
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = static made =>
            {
                if (made == 5)
                {
                    throw new System.Runtime.InteropServices.ExternalException("CUDA out of memory. Tried to allocate 2.00 GiB.\nException raised from malloc");
                }
            },
        };
        var error = Assert.Throws<PeftException>(() => new Trainer(Request(model, s_options with { CheckpointInterval = 0 }) with { Data = data }).Train());
        Assert.Equal(("OutOfMemory", true), (error.ErrorId, error.RecommendedAction?.Contains("batch", StringComparison.Ordinal)));
        Assert.DoesNotContain("raised from", error.Message, StringComparison.Ordinal);
        Assert.NotEmpty(Checkpoints());
    }

    private TrainingRequest Request(PeftModel model, TrainingOptions options) => TrainerTests.Request(model, options) with { OutputPath = _output };

    private string[] Checkpoints() =>
        [.. Directory.GetDirectories(Path.Combine(Adapter, "checkpoints")).Select(folder => Path.GetFileName(folder)!).Order(StringComparer.Ordinal)];

    private sealed class Saying(Action say) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => say();
    }
}
