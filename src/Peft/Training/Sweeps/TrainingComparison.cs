using System.Globalization;
using Peft.Adapters.Model;
using TorchSharp;

namespace Peft.Training.Sweeps;

/// <summary>A training of a sweep beside the others: what came of it, and what it took. A row of the table that a sweep ends in.</summary>
public sealed record TrainingComparison
{
    /// <summary>The quantile of the normal distribution that leaves 2.5 % above it.</summary>
    private const double Quantile = 1.959963984540054;

    /// <summary>Name of the adapter; <c>model</c> where all weights were trained, <c>base</c> of the model as it was.</summary>
    public required string Name { get; init; }

    /// <summary>The adapter; null where there is none, and where the row tells of several seeds: <see cref="Runs"/> have theirs.</summary>
    public PeftAdapter? Adapter { get; init; }

    /// <summary>The method, such as <c>LORA</c>; <c>full</c> where all weights were trained, <c>none</c> of the base.</summary>
    public required string Method { get; init; }

    /// <summary>The rank; null of a method without one.</summary>
    public int? Rank { get; init; }

    /// <summary>The highest learning rate; null of the base.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Where the rows came from; null where nobody says.</summary>
    public string? Dataset { get; init; }

    /// <summary>The seed; null of several, and of the base.</summary>
    public long? Seed { get; init; }

    /// <summary>Mean loss of the rows that were set apart, after the training; of the last step where there were none. Of several seeds the mean of theirs.</summary>
    public double Loss { get; init; }

    /// <summary>Half the width of the interval in which the mean loss of all such rows lies with 95 %; null where no rows were set apart.</summary>
    public double? Margin { get; init; }

    /// <summary>Standard deviation of the losses of several seeds (n - 1); null of one.</summary>
    public double? Spread { get; init; }

    /// <summary>Number of trained parameters.</summary>
    public long TrainableParameters { get; init; }

    /// <summary>Bytes of the file of weights that is saved.</summary>
    public long FileBytes { get; init; }

    /// <summary>Time of the training; passes that it shared with others count in full.</summary>
    public TimeSpan Duration { get; init; }

    /// <summary>The most bytes that the process occupied after a step.</summary>
    public long? MemoryBytes { get; init; }

    /// <summary>The same training by each seed; none where there was one.</summary>
    public IReadOnlyList<TrainingComparison> Runs { get; init => field = Values.Of(value); } = [];

    /// <summary>What happened; null of the base and of several seeds.</summary>
    public TrainingRecord? Record { get; init; }

    /// <summary>The loss as it is told: with its interval, or with its spread over seeds.</summary>
    public string Quality => Spread is { } spread ? string.Create(CultureInfo.InvariantCulture, $"{Loss:0.0000;-0.0000;0.0000} sd {spread:0.0000}")
        : Margin is { } margin ? string.Create(CultureInfo.InvariantCulture, $"{Loss:0.0000;-0.0000;0.0000} ± {margin:0.0000}")
        : Loss.ToString("0.0000;-0.0000;0.0000", CultureInfo.InvariantCulture);

    /// <inheritdoc/>
    public override string ToString() => $"{Name}: {Quality}";

    /// <summary>Trainings that differ by their seed alone as one row.</summary>
    internal static TrainingComparison OfSeeds(IReadOnlyList<TrainingComparison> runs, string name)
    {
        var mean = runs.Average(static run => run.Loss);
        return runs[0] with
        {
            Name = name,
            Adapter = null,
            Seed = null,
            Loss = mean,
            Margin = null,
            Spread = Deviation(runs.Select(static run => run.Loss), mean),
            Duration = TimeSpan.FromSeconds(runs.Average(static run => run.Duration.TotalSeconds)),
            MemoryBytes = runs.Max(static run => run.MemoryBytes),
            Runs = runs,
            Record = null,
        };
    }

    internal static TrainingComparison Of(TrainingRequest request, TrainingRecord record, double[] losses)
    {
        var adapter = request.AdapterName is { } name ? request.Model[name] : null;
        var (loss, margin) = MeanOf(losses);
        return new TrainingComparison
        {
            Name = record.AdapterName,
            Adapter = adapter,
            Method = adapter?.Config.PeftType ?? "full",
            Rank = adapter?.Config.ToJson()["r"] is { } rank && rank.GetValueKind() == System.Text.Json.JsonValueKind.Number ? (int)rank : null,
            LearningRate = request.Options.LearningRate,
            Dataset = request.DataOrigin,
            Seed = request.Options.Seed,
            Loss = loss ?? record.FinalEvaluation?.Loss ?? record.FinalLoss,
            Margin = margin,
            TrainableParameters = record.TrainedParameters,
            FileBytes = SizeOf(request, adapter, record),
            Duration = record.Duration,
            MemoryBytes = record.Steps.Max(static step => step.MemoryBytes),
            Record = record,
        };
    }

    /// <summary>The base beside what was trained on it.</summary>
    internal static TrainingComparison OfBase(double[] losses)
    {
        var (loss, margin) = MeanOf(losses);
        return new TrainingComparison { Name = "base", Method = "none", Loss = loss ?? double.NaN, Margin = margin };
    }

    private static (double? Loss, double? Margin) MeanOf(double[] losses)
    {
        if (losses.Length == 0)
        {
            return (null, null);
        }

        var mean = losses.Average();
        return (mean, losses.Length == 1 ? null : Quantile * Deviation(losses, mean) / Math.Sqrt(losses.Length));
    }

    private static double Deviation(IEnumerable<double> values, double mean) =>
        Math.Sqrt(values.Sum(value => (value - mean) * (value - mean)) / Math.Max(1, values.Count() - 1));

    private static long SizeOf(TrainingRequest request, PeftAdapter? adapter, TrainingRecord record)
    {
        if (record.OutputPath is { } folder)
        {
            return Directory.EnumerateFiles(folder, "*.safetensors").Sum(static file => new FileInfo(file).Length);
        }

        return adapter is null
            ? request.Model.MemoryBytes
            : adapter.Adapter.Parameters().Where(static parameter => parameter.FileKey is not null).Sum(parameter => parameter.Parameter.Count * parameter.Parameter.DataType.ElementSize());
    }
}
