using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>
/// What the training cmdlets share: the options of a training. Each may also be spelt as Hugging Face's TrainingArguments spell it.
/// </summary>
public abstract class TrainingCommand : PeftCmdlet, IRunsAsJob
{
    private const string AtEnd = "no";

    private readonly JsonObject _named = [];

    /// <summary>Options to start from, as a training saved them: an object, the path of a <c>training_options.json</c>, or a table with the names that stand in such a file, which has room for what is no parameter (<c>lr_scheduler_kwargs</c>, <c>optim_args</c>). Other parameters take precedence.</summary>
    [Parameter]
    [TrainingOptionsArgument]
    public TrainingOptions? Options { get; set; }

    /// <summary>Works in the background of this process and puts out a job at once: Receive-Job, Wait-Job, Stop-Job and Remove-Job take it. Its output are the live objects; script blocks among the parameters see no variables of the caller's.</summary>
    [Parameter]
    public SwitchParameter AsJob { get; set; }

    /// <summary>Shows neither lines nor progress; warnings are shown, and the log is written as ever.</summary>
    [Parameter]
    public SwitchParameter Quiet { get; set; }

    /// <summary>Number of passes over the data; may be a fraction.</summary>
    [Parameter]
    [Alias("num_train_epochs", "Epochs")]
    [PSDefaultValue(Value = 3, Help = "3")]
    public double Epoch { get; set; } = 3;

    /// <summary>Number of optimiser steps, in place of <c>-Epoch</c>.</summary>
    [Parameter]
    [Alias("max_steps", "MaxStep", "max_train_steps")]
    [ValidateRange(1, int.MaxValue)]
    public int MaxSteps { get; set; }

    /// <summary>Examples in a batch.</summary>
    [Parameter]
    [Alias("per_device_train_batch_size", "train_batch_size")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 8, Help = "8")]
    public int BatchSize { get; set; } = 8;

    /// <summary>Batches whose gradients are added up in one optimiser step.</summary>
    [Parameter]
    [Alias("gradient_accumulation_steps")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 1, Help = "1")]
    public int GradientAccumulation { get; set; } = 1;

    /// <summary>The highest learning rate. Several make a training each: see <c>-Config</c>.</summary>
    [Parameter]
    [Alias("learning_rate")]
    [PSDefaultValue(Value = 2e-4, Help = "2e-4")]
    [ValidateNotNullOrEmpty]
    public double[] LearningRate { get; set; } = [2e-4];

    /// <summary>How the learning rate changes over the training, by Hugging Face's names.</summary>
    [Parameter]
    [Alias("lr_scheduler_type", "lr_scheduler")]
    [ArgumentCompleter(typeof(ScheduleCompleter))]
    [PSDefaultValue(Value = "linear", Help = "linear")]
    [ValidateNotNullOrEmpty]
    public string Schedule { get; set; } = "linear";

    /// <summary>Length of the warm-up: from 1 on a number of steps, below 1 a share of all steps.</summary>
    [Parameter]
    [Alias("warmup_steps", "warmup_ratio", "lr_warmup_steps")]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double Warmup { get; set; }

    /// <summary>The optimiser, by Hugging Face's names.</summary>
    [Parameter]
    [Alias("optim")]
    [ArgumentCompleter(typeof(OptimizerCompleter))]
    [PSDefaultValue(Value = "adamw_torch", Help = "adamw_torch")]
    [ValidateNotNullOrEmpty]
    public string Optimizer { get; set; } = "adamw_torch";

    /// <summary>How strongly weights are pulled to zero.</summary>
    [Parameter]
    [Alias("weight_decay", "adam_weight_decay")]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double WeightDecay { get; set; }

    /// <summary>Norm to which gradients are cut down; 0 for no limit.</summary>
    [Parameter]
    [Alias("max_grad_norm")]
    [PSDefaultValue(Value = 1, Help = "1")]
    public double MaxGradientNorm { get; set; } = 1;

    /// <summary>Share of each target's probability that is spread over all tokens.</summary>
    [Parameter]
    [Alias("label_smoothing_factor")]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double LabelSmoothing { get; set; }

    /// <summary>Strength of the noise on the embeddings in training (NEFTune). Without it there is none.</summary>
    [Parameter]
    [Alias("neftune_noise_alpha")]
    public double? NeftuneNoiseAlpha { get; set; }

    /// <summary>Repeats a training exactly on the same engine, device and number of threads: starting values, order, dropout. Several make a training each, told as their mean and spread: see <c>-Config</c>.</summary>
    [Parameter]
    [PSDefaultValue(Value = 42, Help = "42")]
    [ValidateNotNullOrEmpty]
    [ValidateRange(0L, long.MaxValue)]
    public long[] Seed { get; set; } = [42];

    /// <summary>Share of the examples that is set apart to measure the loss on. Those that say nearly the same stay on one side, so that it may come out a little larger.</summary>
    [Parameter]
    [Alias("eval_split")]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double EvaluationSplit { get; set; }

    /// <summary>Steps between evaluations; 0 for one at the end of each epoch.</summary>
    [Parameter]
    [Alias("eval_steps")]
    [ValidateRange(0, int.MaxValue)]
    [PSDefaultValue(Value = 0, Help = "0")]
    public int EvaluationInterval { get; set; }

    /// <summary>What evaluations come by: <c>steps</c> (see <c>-EvaluationInterval</c>), <c>epoch</c>, or <c>time</c> (see <c>-EvaluationTime</c>); <c>no</c> for one at the end alone.</summary>
    [Parameter]
    [Alias("eval_strategy", "evaluation_strategy")]
    [ValidateSet("steps", "epoch", "time", AtEnd)]
    [PSDefaultValue(Value = "steps", Help = "steps")]
    public string EvaluationStrategy { get; set; } = "steps";

    /// <summary>Time between evaluations; giving it makes them come by time.</summary>
    [Parameter]
    [PSDefaultValue(Help = "00:10:00")]
    public TimeSpan EvaluationTime { get; set; }

    /// <summary>Ends the training after so many evaluations in a row that weren't better than the best before, and ends with the weights of that one.</summary>
    [Parameter]
    [Alias("early_stopping_patience")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Help = "none")]
    public int EarlyStoppingPatience { get; set; }

    /// <summary>By how much an evaluation has to be better to count for <c>-EarlyStoppingPatience</c>.</summary>
    [Parameter]
    [Alias("early_stopping_threshold")]
    [ValidateRange(0.0, double.MaxValue)]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double EarlyStoppingThreshold { get; set; }

    /// <summary>Ends with the weights of the best evaluation, whose checkpoint is kept. On where the training may stop early.</summary>
    [Parameter]
    [Alias("load_best_model_at_end")]
    public SwitchParameter KeepBest { get; set; }

    /// <summary>The figure that says which evaluation is the best, by its name in the log, such as <c>accuracy</c>; <c>-HigherIsBetter</c> goes with it where that is so.</summary>
    [Parameter]
    [Alias("metric_for_best_model")]
    [ValidateNotNullOrEmpty]
    [PSDefaultValue(Value = "loss", Help = "loss")]
    [ArgumentCompleter(typeof(MetricCompleter))]
    public string BestMetric { get; set; } = "loss";

    /// <summary>More of <c>-BestMetric</c> is better.</summary>
    [Parameter]
    [Alias("greater_is_better")]
    public SwitchParameter HigherIsBetter { get; set; }

    /// <summary>Maximum length of an example, in tokens, where the data set doesn't say.</summary>
    [Parameter]
    [Alias("max_length", "max_seq_length")]
    [ValidateRange(2, int.MaxValue)]
    [PSDefaultValue(Value = 1024, Help = "1024")]
    public int MaxLength { get; set; } = 1024;

    /// <summary>Puts several short examples into one row, where they don't see each other. <c>BestFit</c> cuts those that are longer than a row, <c>BestFitSplit</c> splits them, <c>Wrapped</c> splits wherever a row is full.</summary>
    [Parameter]
    [Alias("packing_strategy")]
    [PackingArgument]
    [PSDefaultValue(Value = PackingStrategy.None, Help = "None")]
    public PackingStrategy Packing { get; set; }

    /// <summary>Type that the frozen weights compute in: float32 converts them for the time of the training, bfloat16 needs a model that was imported in it. Without it, the type the model was loaded in.</summary>
    [Parameter]
    [ValidateSet("float32", "bfloat16")]
    public string? Precision { get; set; }

    /// <summary>Forms a float32 model's products in bfloat16 in both passes, as PyTorch's autocast does; weights, norms, softmax, loss and optimiser stay float32. Faster where the processor or GPU multiplies that type faster.</summary>
    [Parameter]
    [Alias("bf16")]
    public SwitchParameter BFloat16 { get; set; }

    /// <summary>Keeps only the blocks' inputs and computes them again in the backward pass: less memory, a third more work.</summary>
    [Parameter]
    [Alias("gradient_checkpointing")]
    public SwitchParameter GradientCheckpointing { get; set; }

    /// <summary>Steps between checkpoints; 0 for one at the end.</summary>
    [Parameter]
    [Alias("save_steps", "checkpointing_steps")]
    [ValidateRange(0, int.MaxValue)]
    [PSDefaultValue(Value = 500, Help = "500")]
    public int CheckpointInterval { get; set; } = 500;

    /// <summary>What checkpoints come by: <c>steps</c> (see <c>-CheckpointInterval</c>), <c>epoch</c>, or <c>time</c> (see <c>-CheckpointTime</c>); <c>no</c> for one at the end alone.</summary>
    [Parameter]
    [Alias("save_strategy")]
    [ValidateSet("steps", "epoch", "time", AtEnd)]
    [PSDefaultValue(Value = "steps", Help = "steps")]
    public string CheckpointStrategy { get; set; } = "steps";

    /// <summary>Time between checkpoints; giving it makes them come by time.</summary>
    [Parameter]
    [PSDefaultValue(Help = "00:10:00")]
    public TimeSpan CheckpointTime { get; set; }

    /// <summary>How many checkpoints are kept, the newest ones.</summary>
    [Parameter]
    [Alias("save_total_limit", "checkpoints_total_limit")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 2, Help = "2")]
    public int CheckpointLimit { get; set; } = 2;

    /// <summary>Takes what stands in a <c>training_options.json</c> and has no parameter.</summary>
    internal override bool TakesArgument(string name, object? value)
    {
        if (!TrainingOptions.Names.Contains(name))
        {
            return false;
        }

        _named[name] = JsonSerializer.SerializeToNode(DatasetRow.Value(value));
        return true;
    }

    internal override IEnumerable<string> OtherArgumentNames => TrainingOptions.Names;

    /// <summary>Whether a name that is no option is known, and what does what it asks for: a parameter of that name, or something else.</summary>
    private (bool IsKnown, string? Elsewhere) Meant(string name, JsonElement value) =>
        MyInvocation.MyCommand.Parameters.Values.FirstOrDefault(parameter => parameter.Aliases.Contains(name, StringComparer.OrdinalIgnoreCase)) is { } parameter
            ? (true, $"it is the parameter -{parameter.Name}")
            : ForeignArguments.Find(name, DatasetRow.FromJson(value));

    /// <summary>The options that the parameters give.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>.</exception>
    private protected virtual TrainingOptions ReadOptions()
    {
        var start = (Options ?? new TrainingOptions()).With(_named);
        if (start.UnusedNames(Meant) is { } unused)
        {
            WriteWarning(unused);
        }

        return (start with
        {
            Epochs = Pick(nameof(Epoch), Epoch, start.Epochs),
            MaxSteps = Pick(nameof(MaxSteps), MaxSteps, Given(nameof(Epoch)) ? -1 : start.MaxSteps),
            BatchSize = Pick(nameof(BatchSize), BatchSize, start.BatchSize),
            EvaluationBatchSize = _named.ContainsKey("per_device_eval_batch_size") ? start.EvaluationBatchSize : Pick(nameof(BatchSize), BatchSize, start.EvaluationBatchSize),
            GradientAccumulation = Pick(nameof(GradientAccumulation), GradientAccumulation, start.GradientAccumulation),
            LearningRate = Pick(nameof(LearningRate), LearningRate[0], start.LearningRate),
            Schedule = Pick(nameof(Schedule), Schedule, start.Schedule),
            Warmup = Pick(nameof(Warmup), Warmup, start.Warmup),
            Optimizer = Pick(nameof(Optimizer), Optimizer, start.Optimizer),
            WeightDecay = Pick(nameof(WeightDecay), WeightDecay, start.WeightDecay),
            MaxGradientNorm = Pick(nameof(MaxGradientNorm), MaxGradientNorm, start.MaxGradientNorm),
            LabelSmoothing = Pick(nameof(LabelSmoothing), LabelSmoothing, start.LabelSmoothing),
            NeftuneNoiseAlpha = Pick(nameof(NeftuneNoiseAlpha), NeftuneNoiseAlpha, start.NeftuneNoiseAlpha),
            Seed = Pick(nameof(Seed), Seed[0], start.Seed),
            EvaluationSplit = Pick(nameof(EvaluationSplit), EvaluationSplit, start.EvaluationSplit),
            EvaluationInterval = IsAtEnd(EvaluationStrategy) ? int.MaxValue : Pick(nameof(EvaluationInterval), EvaluationInterval, start.EvaluationInterval),
            MaxLength = Pick(nameof(MaxLength), MaxLength, start.MaxLength),
            Packing = Pick(nameof(Packing), Packing, start.Packing),
            Precision = Pick(nameof(Precision), Precision?.ToLowerInvariant(), start.Precision),
            BFloat16Products = Pick(nameof(BFloat16), BFloat16.IsPresent, start.BFloat16Products),
            GradientCheckpointing = Pick(nameof(GradientCheckpointing), GradientCheckpointing.IsPresent, start.GradientCheckpointing),
            EvaluationStrategy = Pick(nameof(EvaluationStrategy), ByOf(EvaluationStrategy), Given(nameof(EvaluationTime)) ? "time" : start.EvaluationStrategy),
            EvaluationSeconds = Pick(nameof(EvaluationTime), EvaluationTime.TotalSeconds, start.EvaluationSeconds),
            EarlyStoppingPatience = Pick(nameof(EarlyStoppingPatience), EarlyStoppingPatience, start.EarlyStoppingPatience),
            EarlyStoppingThreshold = Pick(nameof(EarlyStoppingThreshold), EarlyStoppingThreshold, start.EarlyStoppingThreshold),
            LoadsBest = Pick(nameof(KeepBest), KeepBest.IsPresent, start.LoadsBest),
            BestMetric = Pick(nameof(BestMetric), BestMetric, start.BestMetric),
            GreaterIsBetter = Pick(nameof(HigherIsBetter), HigherIsBetter.IsPresent, start.GreaterIsBetter),
            CheckpointStrategy = Pick(nameof(CheckpointStrategy), ByOf(CheckpointStrategy), Given(nameof(CheckpointTime)) ? "time" : start.CheckpointStrategy),
            CheckpointSeconds = Pick(nameof(CheckpointTime), CheckpointTime.TotalSeconds, start.CheckpointSeconds),
            CheckpointInterval = IsAtEnd(CheckpointStrategy) ? 0 : Pick(nameof(CheckpointInterval), CheckpointInterval, start.CheckpointInterval),
            CheckpointLimit = Pick(nameof(CheckpointLimit), CheckpointLimit, start.CheckpointLimit),
        }).Validate();
    }

    private static bool IsAtEnd(string strategy) => AtEnd.Equals(strategy, StringComparison.OrdinalIgnoreCase);

    private static string ByOf(string strategy) => IsAtEnd(strategy) ? "steps" : strategy.ToLowerInvariant();

    private protected T Pick<T>(string parameter, T given, T otherwise) => Given(parameter) ? given : otherwise;

    /// <inheritdoc/>
    private protected override bool WantsQuiet => Quiet;
}
