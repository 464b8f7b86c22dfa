using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

public class TrainerTests
{
    private static readonly TrainingOptions s_options = new()
    {
        LearningRate = 5e-2,
        BatchSize = 2,
        GradientAccumulation = 2,
        MaxSteps = 9,
        Seed = 5,
        WeightDecay = 0.01,
        Warmup = 2,
    };

    [Fact]
    public void Equal_requests_give_equal_weights_bit_for_bit_and_another_seed_gives_others()
    {
        var first = Train(s_options, dropout: 0.3);
        Assert.Equal(first, Train(s_options, dropout: 0.3));
        Assert.NotEqual(first, Train(s_options with { Seed = 6 }, dropout: 0.3));
    }

    [Fact]
    public void Micro_batches_add_up_to_the_batch_they_are_cut_from()
    {
        var options = s_options with { Sampling = "sequential" };
        var whole = Train(options with { BatchSize = 4, GradientAccumulation = 1 });
        var cut = Train(options with { BatchSize = 1, GradientAccumulation = 4 });
        Assert.All(whole.Zip(cut), pair => Assert.Equal(pair.First, pair.Second, 2e-4));
    }

    [Fact]
    public void The_loss_falls_and_the_record_says_what_happened()
    {
        using var model = Model();
        List<TrainingProgress> reports = [];
        var record = new Trainer(Request(model, s_options with { MaxSteps = 30, LoggingInterval = 10 }) with { Progress = new Reports(reports) }).Train();
        Assert.Equal(30, record.StepCount);
        Assert.True(record.FinalLoss < record.Losses[0] - 0.5, $"{record.Losses[0]} became {record.FinalLoss}");
        Assert.Same(record, model["tuned"].TrainingRecord);
        Assert.InRange(record.MaskedShare, 0.2, 0.5);
        Assert.Equal([10, 20, 30], reports.Select(report => report.Step));
        Assert.Equal(TimeSpan.Zero, reports[^1].Remaining);
        Assert.True(record.TokensPerSecond > 0);
        Assert.DoesNotContain(model["tuned"].TrainableParameters, parameter => parameter.Parameter.IsTrained || parameter.Parameter.Data.requires_grad);
    }

    [Fact]
    public void The_trained_adapter_is_the_active_one_afterwards()
    {
        using var model = Model();
        model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.AllLinear }, "other");
        model.SetActive("other");
        new Trainer(Request(model, s_options with { MaxSteps = 1 })).Train();
        Assert.Equal(["tuned"], model.ActiveAdapters);
    }

    [Fact]
    public void All_weights_of_the_base_can_be_trained_and_the_model_is_saved()
    {
        using var folder = new TemporaryFolder();
        using var model = Model();
        var before = model.Base.NamedParameters().Select(named => named.Parameter.Data.clone()).ToArray();
        var adapter = Weights(model);
        var request = Request(model, s_options with { MaxSteps = 12, LearningRate = 1e-2 }) with { AdapterName = null, OutputPath = folder.Path };
        var record = new Trainer(request).Train();
        Assert.True(record.FinalLoss < record.Losses[0] - 0.5, $"{record.Losses[0]} became {record.FinalLoss}");
        Assert.Equal(model.Base.NamedParameters().Where(named => named.Parameter.IsOwner).Sum(named => named.Parameter.Count), record.TrainedParameters);
        Assert.All(model.Base.NamedParameters().Zip(before), pair => Assert.False(pair.First.Parameter.Data.equal(pair.Second).all().item<bool>(), pair.First.Path));
        Assert.Equal(adapter, Weights(model));
        Assert.All(model.Base.NamedParameters(), named => Assert.False(named.Parameter.IsTrained || named.Parameter.Data.requires_grad));

        using var again = PeftModel.Load(record.OutputPath!);
        Assert.All(
            model.Base.NamedParameters().Zip(again.Base.NamedParameters()),
            pair => Assert.True(pair.First.Parameter.Data.equal(pair.Second.Parameter.Data).all().item<bool>(), pair.First.Path));
        Assert.Equal("OutputExists", Assert.Throws<PeftException>(() => new Trainer(request).Train()).ErrorId);
    }

    [Fact]
    public void Rows_that_are_set_apart_are_evaluated_and_never_trained_on()
    {
        using var model = Model();
        var data = new RandomRows(10, TinyLlama.Vocabulary);
        var record = new Trainer(Request(model, s_options with { MaxSteps = -1, Epochs = 2, EvaluationSplit = 0.25, GradientAccumulation = 1, BatchSize = 1, EvaluationBatchSize = 5 }, data)).Train();
        Assert.Equal(14, record.StepCount);
        Assert.Equal([7, 14], record.Evaluations.Select(evaluation => evaluation.Step));
        var held = data.Seen[7..10];
        Assert.Equal(held, data.Seen[17..20]);
        Assert.Empty(held.Intersect(data.Seen[..7].Concat(data.Seen[10..17])));
        Assert.Equal(Enumerable.Range(0, 10), data.Seen[..10].Order());
    }

    [Fact]
    public void A_training_that_diverges_says_so_and_leaves_the_weights_of_the_step_before()
    {
        using var model = Model();
        var error = Assert.Throws<PeftException>(() => new Trainer(Request(
            model, s_options with { LearningRate = 1e25, Schedule = "constant", MaxGradientNorm = 0, Optimizer = "sgd", WeightDecay = 0 })).Train());
        Assert.Equal("TrainingDiverged", error.ErrorId);
        Assert.All(Weights(model), weight => Assert.True(float.IsFinite(weight)));
        Assert.False(model["tuned"].TrainableParameters[0].Parameter.IsTrained);
    }

    [Fact]
    public void A_model_in_float32_is_not_trained_in_bfloat16()
    {
        using var model = Model();
        var error = Assert.Throws<NotSupportedByPeftException>(() => new Trainer(Request(model, s_options with { Precision = "bfloat16" })).Train());
        Assert.Equal("PrecisionNotSupported", error.ErrorId);
    }

    [Fact]
    public void A_model_in_bfloat16_can_be_trained_in_float32()
    {
        using var narrow = Model();
        WeightEdits.Convert(narrow.Base, ScalarType.BFloat16).Keep();
        using var wide = Model();
        WeightEdits.Convert(wide.Base, ScalarType.BFloat16).Keep();
        WeightEdits.Convert(wide.Base, ScalarType.Float32).Keep();
        var found = new Trainer(Request(narrow, s_options with { Precision = "float32" })).Train();
        Assert.Equal(new Trainer(Request(wide, s_options)).Train().Losses, found.Losses);
    }

    [Fact]
    public void A_merged_model_is_refused()
    {
        using var model = Model();
        model.Merge();
        Assert.Equal("ModelIsMerged", Assert.Throws<PeftException>(() => new Trainer(Request(model, s_options)).Train()).ErrorId);
        model.UndoMerge();
        new Trainer(Request(model, s_options with { MaxSteps = 1 })).Train();
    }

    [Fact]
    public void A_model_that_is_in_use_is_refused()
    {
        using var model = Model();
        using var held = model.Acquire("something else");
        PeftException? error = null;
        var thread = new Thread(() => error = Assert.Throws<PeftException>(() => new Trainer(Request(model, s_options)).Train()));
        thread.Start();
        thread.Join();
        Assert.Equal("PeftModelBusy", error?.ErrorId);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("float32")]
    public void Only_the_adapter_changes(string? precision)
    {
        using var model = Model();
        if (precision is not null)
        {
            WeightEdits.Convert(model.Base, ScalarType.BFloat16).Keep();
        }

        var type = model.DataType;
        var before = model.Base.NamedParameters().Select(named => named.Parameter.Data.clone()).ToArray();
        var ties = model.Base.NamedParameters().Select(named => named.Parameter.TiedTo).ToArray();
        new Trainer(Request(model, s_options with { Precision = precision })).Train();
        Assert.Equal(ties, model.Base.NamedParameters().Select(named => named.Parameter.TiedTo));
        Assert.All(model.Base.NamedParameters(), named => Assert.Equal(type, named.Parameter.DataType));
        Assert.All(model.Base.NamedParameters().Zip(before), pair => Assert.True(pair.First.Parameter.Data.equal(pair.Second).all().item<bool>(), pair.First.Path));
    }

    [Fact]
    public void Cancelling_in_the_middle_of_a_step_keeps_the_last_whole_one_and_the_model_usable()
    {
        using var model = Model();
        using var stop = new CancellationTokenSource();
        var data = new RandomRows(8, TinyLlama.Vocabulary) { Before = batch => StopAt(batch, 7, stop) };
        Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(Request(model, s_options, data)).Train(stop.Token));
        using var three = Model();
        var plan = s_options with { Schedule = "constant_with_warmup" };
        Assert.Equal(3, new Trainer(Request(three, plan with { MaxSteps = 3 })).Train().StepCount);

        using var again = Model();
        using var second = new CancellationTokenSource();
        var rows = new RandomRows(8, TinyLlama.Vocabulary) { Before = batch => StopAt(batch, 7, second) };
        Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(Request(again, plan, rows)).Train(second.Token));
        Assert.Equal(Weights(three), Weights(again));
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var causal = (CausalModel)again.Base;
        Assert.True(causal.Forward(TinyLlama.Inputs()["input_ids"], new ForwardContext { Selection = again.CurrentSelection }).Hidden.isfinite().all().item<bool>());
    }

    /// <summary>A training that is stopped after some steps and goes on in another model ends with the losses and the bits of one that wasn't.</summary>
    internal static void GoesOnAfter(int steps, Func<PeftModel> make, TrainingOptions options)
    {
        using var folder = new TemporaryFolder();
        using var whole = make();
        var expected = new Trainer(Request(whole, options)).Train();
        using (var stopped = make())
        {
            using var stop = new CancellationTokenSource();
            var data = new RandomRows(8, TinyLlama.Vocabulary) { Before = batch => StopAt(batch, steps, stop) };
            Assert.ThrowsAny<OperationCanceledException>(() => new Trainer(Request(stopped, options, data) with { OutputPath = folder.Path }).Train(stop.Token));
        }

        using var resumed = make();
        var record = new Trainer(Request(resumed, options) with { OutputPath = folder.Path, Resume = true }).Train();
        Assert.Equal(steps, record.ResumedFrom);
        Assert.Equal(expected.Losses, record.Losses);
        Assert.Equal(Weights(whole), Weights(resumed));
    }

    internal static void StopAt(int batch, int at, CancellationTokenSource stop)
    {
        if (batch == at)
        {
            stop.Cancel();
        }
    }

    internal static PeftModel Model(double dropout = 0, ScalarType type = ScalarType.Float32)
    {
        var model = TinyLlama.Create(type: type);
        model.AddAdapter(new LoraConfig { Rank = 4, Alpha = 8, Dropout = dropout, TargetModules = ModuleNames.AllLinear }, "tuned", seed: 3);
        return model;
    }

    internal static TrainingRequest Request(PeftModel model, TrainingOptions options, ITrainingData? data = null) => new()
    {
        Model = model,
        AdapterName = "tuned",
        Data = data ?? new RandomRows(8, TinyLlama.Vocabulary),
        Options = options,
    };

    internal static float[] Weights(PeftModel model) =>
        [.. model["tuned"].TrainableParameters.SelectMany(parameter => parameter.Parameter.Data.contiguous().data<float>().ToArray())];

    private static float[] Train(TrainingOptions options, double dropout = 0)
    {
        using var model = Model(dropout);
        new Trainer(Request(model, options)).Train();
        return Weights(model);
    }

    private sealed class Reports(List<TrainingProgress> all) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => all.Add(value);
    }
}
