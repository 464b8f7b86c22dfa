using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using Peft.Engine;
using Peft.Files;
using Peft.Training.Data;
using Peft.Training.Objectives;
using Peft.Training.Optimizers;
using Peft.Training.Schedules;

namespace Peft.Training;

/// <summary>
/// Everything a training depends on beside model, adapter and data. Immutable; saved beside the adapter under Hugging Face's names,
/// so that a training can be repeated from its file.
/// </summary>
public sealed record TrainingOptions
{
    private static readonly string[] s_names = [.. typeof(TrainingOptions).GetProperties()
        .Select(static property => property.GetCustomAttribute<JsonPropertyNameAttribute>()?.Name).OfType<string>()];

    /// <summary>Name of the file in an adapter's folder.</summary>
    public const string FileName = "training_options.json";

    private const string Steps = "steps";

    /// <summary>Peak learning rate. Default 2e-4, usual for LoRA.</summary>
    [JsonPropertyName("learning_rate")]
    public double LearningRate { get; init; } = 2e-4;

    /// <summary>Number of passes over the data; may be a fraction. Default 3. Ignored where <see cref="MaxSteps"/> is given.</summary>
    [JsonPropertyName("num_train_epochs")]
    public double Epochs { get; init; } = 3;

    /// <summary>Number of optimiser steps, or -1 (default) to let the epochs decide.</summary>
    [JsonPropertyName("max_steps")]
    public int MaxSteps { get; init; } = -1;

    /// <summary>Rows in a micro batch. Default 8.</summary>
    [JsonPropertyName("per_device_train_batch_size")]
    public int BatchSize { get; init; } = 8;

    /// <summary>Rows in an evaluation batch. Default 8.</summary>
    [JsonPropertyName("per_device_eval_batch_size")]
    public int EvaluationBatchSize { get; init; } = 8;

    /// <summary>Micro batches in an optimiser step. Default 1. The step averages over the tokens of all of them.</summary>
    [JsonPropertyName("gradient_accumulation_steps")]
    public int GradientAccumulation { get; init; } = 1;

    /// <summary>Name of the schedule, in any case: see <see cref="ScheduleRegistry.Names"/>. Default <c>linear</c>.</summary>
    [JsonPropertyName("lr_scheduler_type")]
    public string Schedule { get; init => field = ScheduleRegistry.Canonical(value ?? throw new ArgumentNullException(nameof(Schedule))); } = "linear";

    /// <summary>The schedule's own options, such as <c>num_cycles</c>; null for none.</summary>
    [JsonPropertyName("lr_scheduler_kwargs")]
    public JsonObject? ScheduleOptions { get; init; }

    /// <summary>Length of the warm-up: from 1 on a number of steps, below 1 a share of all steps (rounded up). Default 0.</summary>
    [JsonPropertyName("warmup_steps")]
    public double Warmup { get; init; }

    /// <summary>Name of the optimiser, in any case: see <see cref="OptimizerRegistry.Names"/>. Default <c>adamw_torch</c>.</summary>
    [JsonPropertyName("optim")]
    public string Optimizer { get; init => field = OptimizerRegistry.Canonical(value ?? throw new ArgumentNullException(nameof(Optimizer))); } = "adamw_torch";

    /// <summary>The optimiser's own options, such as <c>momentum</c>; null for none.</summary>
    [JsonPropertyName("optim_args")]
    public JsonObject? OptimizerOptions { get; init; }

    /// <summary>Decoupled weight decay. Default 0. Biases and norms are spared.</summary>
    [JsonPropertyName("weight_decay")]
    public double WeightDecay { get; init; }

    /// <summary>Decay of Adam's first moment. Default 0.9.</summary>
    [JsonPropertyName("adam_beta1")]
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of Adam's second moment. Default 0.999.</summary>
    [JsonPropertyName("adam_beta2")]
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to Adam's denominator. Default 1e-8.</summary>
    [JsonPropertyName("adam_epsilon")]
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Name of what is made small: see <see cref="ObjectiveRegistry.Names"/>. Default <c>causal_language_modelling</c>.</summary>
    [JsonPropertyName("objective")]
    public string Objective { get; init => field = ObjectiveRegistry.Canonical(value ?? throw new ArgumentNullException(nameof(Objective))); } = "causal_language_modelling";

    /// <summary>The objective's own options under TRL's names, such as <c>beta</c>; null for none.</summary>
    [JsonPropertyName("objective_args")]
    public JsonObject? ObjectiveOptions { get; init; }

    /// <summary>Norm to which gradients are cut down. Default 1; 0 turns it off.</summary>
    [JsonPropertyName("max_grad_norm")]
    public double MaxGradientNorm { get; init; } = 1;

    /// <summary>Share of each target's probability spread over the whole vocabulary. Default 0.</summary>
    [JsonPropertyName("label_smoothing_factor")]
    public double LabelSmoothing { get; init; }

    /// <summary>Strength of the noise on the embeddings in training (NEFTune, Jain et al. 2023), or null (default) for none.</summary>
    [JsonPropertyName("neftune_noise_alpha")]
    public double? NeftuneNoiseAlpha { get; init; }

    /// <summary>Seed of the data's order, the split and the dropout masks. Default 42.</summary>
    [JsonPropertyName("seed")]
    public long Seed { get; init; } = 42;

    /// <summary><c>random</c> (default): a new order every epoch. <c>sequential</c>: the data's own order.</summary>
    [JsonPropertyName("train_sampling_strategy")]
    public string Sampling { get; init; } = "random";

    /// <summary>Share of the rows set apart for evaluation where no evaluation data is given. Default 0.</summary>
    [JsonPropertyName("eval_split")]
    public double EvaluationSplit { get; init; }

    /// <summary>Steps between evaluations, or 0 (default) for one at the end of each epoch. The last step is always followed by one.</summary>
    [JsonPropertyName("eval_steps")]
    public int EvaluationInterval { get; init; }

    /// <summary>What evaluations come by: <c>steps</c> (default, see <see cref="EvaluationInterval"/>), <c>epoch</c>, or <c>time</c>.</summary>
    [JsonPropertyName("eval_strategy")]
    public string EvaluationStrategy { get; init; } = Steps;

    /// <summary>Seconds between evaluations by time. Default 600.</summary>
    [JsonPropertyName("eval_seconds")]
    public double EvaluationSeconds { get; init; } = 600;

    /// <summary>What checkpoints come by: <c>steps</c> (default, see <see cref="CheckpointInterval"/>), <c>epoch</c>, or <c>time</c>.</summary>
    [JsonPropertyName("save_strategy")]
    public string CheckpointStrategy { get; init; } = Steps;

    /// <summary>Seconds between checkpoints by time. Default 600.</summary>
    [JsonPropertyName("save_seconds")]
    public double CheckpointSeconds { get; init; } = 600;

    /// <summary>After how many evaluations without a better figure the training ends; null (default) for never.</summary>
    [JsonPropertyName("early_stopping_patience")]
    public int? EarlyStoppingPatience { get; init; }

    /// <summary>By how much the figure has to become better to count. Default 0.</summary>
    [JsonPropertyName("early_stopping_threshold")]
    public double EarlyStoppingThreshold { get; init; }

    /// <summary>Whether the training ends with the weights of its best evaluation, whose checkpoint is kept. Default (null): where it may stop early.</summary>
    [JsonPropertyName("load_best_model_at_end")]
    public bool? LoadsBest { get; init; }

    /// <summary>The figure that says which evaluation is the best, by its name in the log. Default <c>loss</c>.</summary>
    [JsonPropertyName("metric_for_best_model")]
    public string BestMetric { get; init; } = "loss";

    /// <summary>Whether more of that figure is better. Default false, as of a loss.</summary>
    [JsonPropertyName("greater_is_better")]
    public bool GreaterIsBetter { get; init; }

    /// <summary>Whether the best weights are kept.</summary>
    [JsonIgnore]
    public bool KeepsBest => LoadsBest ?? EarlyStoppingPatience is not null;

    /// <summary>Longest row in tokens; longer ones are cut. Default 1024.</summary>
    [JsonPropertyName("max_length")]
    public int MaxLength { get; init; } = 1024;

    /// <summary>How several short examples share a row, where they don't see each other; long ones are split or cut. Default: none does.</summary>
    [JsonIgnore]
    public PackingStrategy Packing
    {
        get => !IsPacked ? PackingStrategy.None : PackingName switch { "bfd_split" => PackingStrategy.BestFitSplit, "wrapped" => PackingStrategy.Wrapped, _ => PackingStrategy.BestFit };
        init
        {
            IsPacked = value != PackingStrategy.None;
            PackingName = value switch { PackingStrategy.None => PackingName, PackingStrategy.BestFitSplit => "bfd_split", PackingStrategy.Wrapped => "wrapped", _ => null };
        }
    }

    /// <summary>Whether several examples share a row, as TRL writes it down. Default false.</summary>
    [JsonPropertyName("packing")]
    public bool IsPacked { get; init; }

    /// <summary>How they do, as TRL writes it down: <c>bfd</c>, <c>bfd_split</c> or <c>wrapped</c>; null (default) for <c>bfd</c>.</summary>
    [JsonPropertyName("packing_strategy")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? PackingName { get; init; }

    /// <summary>
    /// Element type the frozen weights compute in: <c>float32</c>, <c>bfloat16</c>, or null (default) for the type the model was loaded in. <c>float32</c> converts
    /// a model in another type for the time of the training, with the originals kept beside; <c>bfloat16</c> needs a model that was loaded in it. The adapter's own
    /// weights are float32 always.
    /// </summary>
    [JsonPropertyName("precision")]
    public string? Precision { get; init; }

    /// <summary>
    /// Whether a float32 model's products (of weights, low-rank factors, attention, convolutions and scores) are formed in bfloat16, in both passes, as PyTorch's autocast does; weights, norms, softmax,
    /// loss and optimiser stay float32. Faster where the processor or GPU multiplies that type faster; weights in bfloat16 (<see cref="Precision"/>) save memory as well. Default false.
    /// </summary>
    [JsonPropertyName("bf16")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool BFloat16Products { get; init; }

    /// <summary>Whether blocks keep their input alone and are computed again in the backward pass: less memory, a third more work. Default false.</summary>
    [JsonPropertyName("gradient_checkpointing")]
    public bool GradientCheckpointing { get; init; }

    /// <summary>Steps between checkpoints. Default 500; 0 for none but the last. A training that is stopped always leaves one.</summary>
    [JsonPropertyName("save_steps")]
    public int CheckpointInterval { get; init; } = 500;

    /// <summary>How many checkpoints are kept, the newest ones. Default 2.</summary>
    [JsonPropertyName("save_total_limit")]
    public int CheckpointLimit { get; init; } = 2;

    /// <summary>Steps between progress reports. Default 1. The log holds every step.</summary>
    [JsonPropertyName("logging_steps")]
    public int LoggingInterval { get; init; } = 1;

    /// <summary>What the machine decided for the training that wrote the file; null in options that trained nothing yet. It is no option: another training decides anew.</summary>
    [JsonPropertyName("compute")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ComputeChoice? Compute { get; init; }

    /// <summary>Keys that were in the file and that Peft has no use for; they are written back.</summary>
    [JsonExtensionData]
    public IDictionary<string, JsonElement>? Others { get; init; }

    /// <summary>Hugging Face's names of all options.</summary>
    [JsonIgnore]
    public static IReadOnlyCollection<string> Names => s_names;

    /// <summary>A sentence on the keys of <see cref="Others"/>, with the option that each may mean; null where there are none.</summary>
    [JsonIgnore]
    public string? Unused => UnusedNames(static (_, _) => (false, null));

    /// <summary>A sentence on those keys of <see cref="Others"/> that ask for something.</summary>
    /// <param name="find">Whether a key is known with its value, and what does what it asks for; nothing where it asks for nothing.</param>
    /// <returns>The sentence, or null where there is nothing to say.</returns>
    public string? UnusedNames(Func<string, JsonElement, (bool IsKnown, string? Elsewhere)> find)
    {
        ArgumentNullException.ThrowIfNull(find);
        string[] parts = [.. from entry in Others ?? new Dictionary<string, JsonElement>()
                             let found = find(entry.Key, entry.Value)
                             where !found.IsKnown || found.Elsewhere is not null
                             select found.Elsewhere is { } elsewhere ? $"{entry.Key} ({elsewhere})" : Spelling.Nearest(entry.Key, s_names) is { } meant ? $"{entry.Key} (did you mean {meant}?)" : entry.Key];
        return parts.Length == 0 ? null : $"Of the training options nothing is done with {string.Join(", ", parts)}.";
    }

    /// <summary>The same options with some others, by Hugging Face's names.</summary>
    /// <param name="values">The others.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: a value is of the wrong kind.</exception>
    public TrainingOptions With(JsonObject values)
    {
        ArgumentNullException.ThrowIfNull(values);
        if (values.Count == 0)
        {
            return this;
        }

        var document = JsonNode.Parse(ToJson())!.AsObject();
        foreach (var (name, value) in values)
        {
            document[name] = value?.DeepClone();
        }

        return FromJson(document.ToJsonString(), "the arguments");
    }

    /// <summary>Reads a <c>training_options.json</c>, or any JSON object with Hugging Face's names.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: a value is of the wrong kind, or the file is no JSON.</exception>
    public static TrainingOptions FromFile(string path) => FromJson(File.ReadAllText(path), path);

    /// <summary>Reads JSON with Hugging Face's names.</summary>
    /// <param name="json">The text.</param>
    /// <param name="source">Where it came from, for messages.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: a value is of the wrong kind, or the text is no JSON.</exception>
    public static TrainingOptions FromJson(string json, string source = "the given text")
    {
        try
        {
            var options = JsonSerializer.Deserialize<TrainingOptions>(json, JsonFile.WriteOptions) ?? throw new JsonException("The value is null.");

            // A number beyond a double's range is read as infinite, and nothing could be written of it.
            _ = options.ToJson();
            return options;
        }
        catch (Exception error) when (error is JsonException or ArgumentException or InvalidOperationException)
        {
            throw new PeftException("TrainingOptionInvalid", $"The training options in {source} can't be read: {error.Message}", error)
            {
                Target = source,
                RecommendedAction = "Mend the value that the message names; training_options.json of a finished training shows how each is written.",
            };
        }
    }

    /// <summary>The options that aren't the defaults, by Hugging Face's names.</summary>
    public override string ToString()
    {
        var standard = JsonNode.Parse(new TrainingOptions().ToJson())!.AsObject();
        return string.Join(", ", JsonNode.Parse(ToJson())!.AsObject().Where(entry => !JsonNode.DeepEquals(entry.Value, standard[entry.Key])).Select(static entry => $"{entry.Key}={entry.Value?.ToJsonString()}"));
    }

    /// <summary>The options as JSON with Hugging Face's names.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, JsonFile.WriteOptions);

    /// <summary>Number of optimiser steps in which the rate rises, out of <paramref name="totalSteps"/>.</summary>
    public int WarmupStepsOf(int totalSteps) => Warmup < 1 ? (int)Math.Ceiling(totalSteps * Warmup) : (int)Warmup;

    /// <summary>A sentence where the warm-up isn't what it was meant for: the schedule has none, or the training ends in it; null otherwise.</summary>
    internal string? WarmupNote(int totalSteps) => WarmupStepsOf(totalSteps) switch
    {
        0 => null,
        _ when ScheduleRegistry.IgnoresWarmup(Schedule) => $"The schedule '{Schedule}' has no warm-up, so that the one of {Warmup.ToString(CultureInfo.InvariantCulture)} is left out; constant_with_warmup has one.",
        var steps when steps >= totalSteps => string.Create(
            CultureInfo.InvariantCulture, $"The warm-up takes {steps} steps and the training {totalSteps}: the learning rate doesn't reach {LearningRate}. A warm-up below 1 is a share of the steps."),
        _ => null,
    };

    /// <summary>Checks every value and names the first that can't be.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>.</exception>
    /// <exception cref="NotSupportedByPeftException">Nobody knows the schedule, the optimiser or the objective.</exception>
    public TrainingOptions Validate()
    {
        Require(double.IsFinite(LearningRate) && LearningRate >= 0, "learning_rate", LearningRate, "0 or more");
        Require(MaxSteps is -1 or > 0, "max_steps", MaxSteps, "1 or more, or -1 to let the epochs decide");
        Require(MaxSteps > 0 || (double.IsFinite(Epochs) && Epochs > 0), "num_train_epochs", Epochs, "more than 0");
        Require(BatchSize > 0, "per_device_train_batch_size", BatchSize, "1 or more");
        Require(EvaluationBatchSize > 0, "per_device_eval_batch_size", EvaluationBatchSize, "1 or more");
        Require(GradientAccumulation > 0, "gradient_accumulation_steps", GradientAccumulation, "1 or more");
        Require(double.IsFinite(Warmup) && Warmup >= 0, "warmup_steps", Warmup, "0 or more");
        Require(double.IsFinite(WeightDecay) && WeightDecay >= 0, "weight_decay", WeightDecay, "0 or more");
        Require(Beta1 is >= 0 and < 1, "adam_beta1", Beta1, "at least 0 and below 1");
        Require(Beta2 is >= 0 and < 1, "adam_beta2", Beta2, "at least 0 and below 1");
        Require(Epsilon > 0, "adam_epsilon", Epsilon, "more than 0");
        Require(MaxGradientNorm >= 0, "max_grad_norm", MaxGradientNorm, "0 or more");
        Require(LabelSmoothing is >= 0 and < 1, "label_smoothing_factor", LabelSmoothing, "at least 0 and below 1");
        Require(NeftuneNoiseAlpha is null or > 0, "neftune_noise_alpha", NeftuneNoiseAlpha ?? 0, "more than 0, or absent");
        Require(EvaluationSplit is >= 0 and < 1, "eval_split", EvaluationSplit, "at least 0 and below 1");
        Require(EvaluationInterval >= 0, "eval_steps", EvaluationInterval, "0 or more");
        Require(MaxLength > 1, "max_length", MaxLength, "2 or more");
        Require(CheckpointInterval >= 0, "save_steps", CheckpointInterval, "0 or more");
        Require(CheckpointLimit > 0, "save_total_limit", CheckpointLimit, "1 or more");
        Require(EvaluationSeconds > 0, "eval_seconds", EvaluationSeconds, "more than 0");
        Require(CheckpointSeconds > 0, "save_seconds", CheckpointSeconds, "more than 0");
        Require(EarlyStoppingPatience is null or > 0, "early_stopping_patience", EarlyStoppingPatience ?? 0, "1 or more, or absent");
        Require(EarlyStoppingThreshold >= 0, "early_stopping_threshold", EarlyStoppingThreshold, "0 or more");
        RequireOneOf("eval_strategy", EvaluationStrategy, Steps, "epoch", "time");
        RequireOneOf("save_strategy", CheckpointStrategy, Steps, "epoch", "time");
        Require(LoggingInterval > 0, "logging_steps", LoggingInterval, "1 or more");
        RequireOneOf("train_sampling_strategy", Sampling, "random", "sequential");
        RequireOneOf("packing_strategy", PackingName ?? "bfd", "bfd", "bfd_split", "wrapped");
        RequireOneOf("precision", Precision ?? "float32", "float32", "bfloat16");
        ScheduleRegistry.Create(Schedule, LearningRate, WarmupStepsOf(Math.Max(MaxSteps, 1)), Math.Max(MaxSteps, 1), ScheduleOptions);
        OptimizerRegistry.RequireKnown(Optimizer);
        ObjectiveRegistry.Create(this);
        return this;
    }

    /// <summary>An option by the name it has here, with Hugging Face's behind it.</summary>
    /// <param name="name">Hugging Face's name, as it stands in the file.</param>
    internal static string SideBySide(string name) =>
        typeof(TrainingOptions).GetProperties().FirstOrDefault(property => property.GetCustomAttribute<JsonPropertyNameAttribute>()?.Name == name) is { } own
        && !own.Name.Equals(name, StringComparison.OrdinalIgnoreCase) ? $"{own.Name} ({name})" : name;

    private static void Require(bool holds, string name, double value, string allowed)
    {
        if (!holds)
        {
            throw new PeftException(
                "TrainingOptionInvalid", $"The training option {SideBySide(name)} must be {allowed}, but is {value.ToString("R", CultureInfo.InvariantCulture)}.")
            {
                Target = name,
                RecommendedAction = "Give such a value, or leave the option out.",
            };
        }
    }

    private static void RequireOneOf(string name, string value, params ReadOnlySpan<string> allowed)
    {
        if (!allowed.Contains(value))
        {
            throw new PeftException(
                "TrainingOptionInvalid", $"The training option {SideBySide(name)} must be one of {string.Join(", ", allowed.ToArray())}, but is '{value}'.")
            {
                Target = name,
                RecommendedAction = "Give such a value, or leave the option out.",
            };
        }
    }
}
