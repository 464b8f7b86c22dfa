using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Tests.Adapters;
using Peft.Training;
using Peft.Training.Data;

namespace Peft.Tests.Training;

/// <summary>What a training takes, counted off shapes; benchmarks hold it to what was measured.</summary>
public sealed class TrainingEstimateTests
{
    private const int Rows = 4, Length = 12;

    [Fact]
    public void Activations_are_what_the_layers_of_all_blocks_read_and_give()
    {
        using var model = Model();
        var config = model.Base.Config;
        long hidden = config.Integer("hidden_size")!.Value, inner = config.Integer("intermediate_size")!.Value, layers = config.Integer("num_hidden_layers")!.Value;
        var values = hidden / config.Integer("num_attention_heads")!.Value * config.Integer("num_key_value_heads")!.Value;
        var estimate = Estimate(model, new TrainingOptions { BatchSize = Rows, MaxSteps = 5 });

        // q, k, v read one input and so do gate and up; o has its own, and down's is formed again.
        var block = (hidden + (2 * values) + hidden + (2 * inner) + hidden) + (hidden + hidden + hidden);
        Assert.Equal(layers * block * Rows * Length * sizeof(float), estimate.ActivationBytes);
        Assert.Equal((5, Rows * Length), (estimate.Steps, estimate.BatchTokens));

        var recomputed = Estimate(model, new TrainingOptions { BatchSize = Rows, MaxSteps = 5, GradientCheckpointing = true });
        Assert.Equal(((layers * hidden) + (2 * block)) * Rows * Length * sizeof(float), recomputed.ActivationBytes);
        Assert.Equal(16 * model["default"].TrainableParameters.Sum(static parameter => parameter.Parameter.Count), estimate.OptimizerBytes);
    }

    [Fact]
    public void A_training_that_cannot_fit_is_refused_with_what_makes_it_fit()
    {
        using var model = Model();
        var options = new TrainingOptions { BatchSize = 64, MaxSteps = 5 };
        var estimate = Estimate(model, options, rows: 64, length: 400_000);
        estimate.RefuseTooLarge(model, Data(64, 400_000), options, available: estimate.PeakBytes);
        var error = Assert.Throws<PeftException>(() => estimate.RefuseTooLarge(model, Data(64, 400_000), options, available: estimate.PeakBytes - (long)(0.9 * estimate.ActivationBytes)));
        Assert.Equal("TrainingMemoryInsufficient", error.ErrorId);
        Assert.Contains("-GradientCheckpointing", error.RecommendedAction, StringComparison.Ordinal);
        Assert.Contains("-BatchSize", error.RecommendedAction, StringComparison.Ordinal);
    }

    [Fact]
    public void Steps_of_few_tokens_take_time_by_their_number_too()
    {
        using var model = Model();
        var trained = model["default"].TrainableParameters.Sum(static parameter => parameter.Parameter.Count);
        TimeSpan Of(int batch, int accumulation, int steps) => TrainingEstimate.Of(
            model, trained, Data(rows: 4000, length: 4), new TrainingOptions { BatchSize = batch, GradientAccumulation = accumulation, MaxSteps = steps }, timesProducts: true).Duration!.Value;
        var few = Of(batch: 400, accumulation: 1, steps: 10);
        Assert.InRange(Of(batch: 1, accumulation: 1, steps: 4000) / few, 10, 1000);
        Assert.InRange(Of(batch: 1, accumulation: 400, steps: 10) / few, 10, 1000);
    }

    private static TrainingEstimate Estimate(PeftModel model, TrainingOptions options, int rows = 20, int length = Length) =>
        TrainingEstimate.Of(model, model["default"].TrainableParameters.Sum(static parameter => parameter.Parameter.Count), Data(rows, length), options);

    private static PeftModel Model()
    {
        var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = Peft.Adapters.Targets.ModuleNames.AllLinear });
        return model;
    }

    private static ShapesAlone Data(int rows, int length) => new(rows, length);

    private sealed class ShapesAlone(int rows, int length) : ITrainingData
    {
        public int Count => rows;

        public string Fingerprint => "shapes";

        public int? LongestRow => length;

        public long? TokenTotal => (long)rows * length;

        public TrainingBatch Collate(IReadOnlyList<int> chosen, TorchSharp.torch.Device device) => throw new NotSupportedException();
    }
}
