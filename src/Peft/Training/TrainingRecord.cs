using System.Globalization;
using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Generation;
using Peft.Models;
using Peft.Training.Diffusion;
using Peft.Training.Reports;

namespace Peft.Training;

/// <summary>What one optimiser step did.</summary>
/// <param name="Step">Counted from 1.</param>
/// <param name="Epoch">Epochs over after it.</param>
/// <param name="Loss">The step's loss, averaged over its items.</param>
/// <param name="LearningRate">The rate it used; with several groups the first one's.</param>
/// <param name="GradientNorm">Norm of all gradients before clipping.</param>
/// <param name="Tokens">Tokens in its rows, without padding.</param>
/// <param name="Targets">Tokens that carried loss.</param>
/// <param name="Seconds">Time since the training began, that of earlier runs included.</param>
public readonly record struct StepRecord(int Step, double Epoch, double Loss, double LearningRate, double GradientNorm, long Tokens, long Targets, double Seconds)
{
    /// <summary>What the objective states beside its loss (<c>rewards/margins</c>), as means over the step; null for nothing.</summary>
    public IReadOnlyDictionary<string, double>? Metrics { get; init; }

    /// <summary>Bytes of memory that the process occupied after it; null where the log says nothing.</summary>
    public long? MemoryBytes { get; init; }

    /// <summary>What the machine decided, with the first step that was computed so; null in those that follow.</summary>
    public ComputeChoice? Compute { get; init; }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"step {Step}: loss {Loss:G6}");
}

/// <summary>One evaluation.</summary>
/// <param name="Step">Steps made before it.</param>
/// <param name="Epoch">Epochs over before it.</param>
/// <param name="Loss">Mean of the batches' losses, each counted by its rows.</param>
public readonly record struct EvaluationRecord(int Step, double Epoch, double Loss)
{
    /// <summary>What the objective states beside its loss, as means over the rows; null for nothing.</summary>
    public IReadOnlyDictionary<string, double>? Metrics { get; init; }

    /// <summary>What the model answered to the prompts that it was to be tried on; null for none.</summary>
    public IReadOnlyList<TrainingSample>? Samples { get; init; }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"step {Step}: loss {Loss:G6}");
}

/// <summary>What the model answered to a prompt in the midst of a training.</summary>
/// <param name="Prompt">The prompt.</param>
/// <param name="Text">The answer, by the likeliest tokens; of a diffusion model the picture's path below the training's folder.</param>
public sealed record TrainingSample(string Prompt, string Text)
{
    /// <summary>What a model makes now of the prompts that a training tries it on; null where there are none, and where pictures have no folder.</summary>
    internal static TrainingSample[]? Of(TrainingRequest request, AdapterSelection selection, string? folder, int step, CancellationToken cancellation)
    {
        if (request.SamplePrompts.Count == 0)
        {
            return null;
        }

        if (SamplePictures.AreOf(request.Model))
        {
            return folder is null ? null : SamplePictures.Draw(request, selection, folder, step, cancellation);
        }

        using var scope = TorchSharp.torch.NewDisposeScope();
        return
        [
            .. new TextGenerator(request.Model).Generate(request.SamplePrompts, new GenerationOptions { MaxNewTokens = request.SampleLength }, selection, cancellation: cancellation)
                .Select((result, i) => new TrainingSample(request.SamplePrompts[i], result.Text)),
        ];
    }
}

/// <summary>How a training begins, for whoever shows it.</summary>
/// <param name="StepsMade">Steps that were made before, and are gone on from.</param>
/// <param name="TotalSteps">Steps of the whole training.</param>
/// <param name="Rows">Rows that are trained on.</param>
/// <param name="EvaluationRows">Rows that are evaluated on.</param>
/// <param name="Parameters">Number of trained parameters.</param>
public readonly record struct TrainingStart(int StepsMade, int TotalSteps, int Rows, int EvaluationRows, long Parameters);

/// <summary>How a training stands, for whoever shows it.</summary>
/// <param name="Step">Steps made.</param>
/// <param name="TotalSteps">Steps of the whole training.</param>
/// <param name="Epoch">Epochs over.</param>
/// <param name="Loss">The last step's loss.</param>
/// <param name="LearningRate">The rate it used.</param>
/// <param name="TokensPerSecond">Speed over this run.</param>
/// <param name="Remaining">Estimated time left.</param>
public readonly record struct TrainingProgress(
    int Step, int TotalSteps, double Epoch, double Loss, double LearningRate, double TokensPerSecond, TimeSpan Remaining)
{
    /// <summary>Loss of the last evaluation; null before the first.</summary>
    public double? EvaluationLoss { get; init; }

    /// <summary>Loss of the retention data set at the last evaluation, or before the first step; null without one.</summary>
    public double? RetentionLoss { get; init; }

    /// <summary>Mean reward of the last step's answers; null where none are rated.</summary>
    public double? Reward { get; init; }
}

/// <summary>What a finished training leaves on its adapter.</summary>
public sealed record TrainingRecord : ITrainingRecord
{
    /// <summary>The adapter's name.</summary>
    public required string AdapterName { get; init; }

    /// <summary>The options it ran with.</summary>
    public required TrainingOptions Options { get; init; }

    /// <summary>Name of the objective.</summary>
    public required string Objective { get; init; }

    /// <summary>Every step, those before a resumption included.</summary>
    public required IReadOnlyList<StepRecord> Steps { get; init => field = Values.Of(value); }

    /// <summary>Every evaluation, those before a resumption included.</summary>
    public required IReadOnlyList<EvaluationRecord> Evaluations { get; init => field = Values.Of(value); }

    /// <summary>What it ran on and where; null where nobody wrote it down.</summary>
    public TrainingRun? Run { get; init; }

    /// <summary>The command that repeats it; null where nobody wrote down what it ran on.</summary>
    public string? Command => RunCommand.Of(this);

    /// <summary>Number of trained parameters.</summary>
    public required long TrainedParameters { get; init; }

    /// <summary>The step from which this run went on; 0 for a training from the start.</summary>
    public int ResumedFrom { get; init; }

    /// <summary>Loss a token on the retention texts without the adapter; null where there were none.</summary>
    public double? RetentionBefore { get; init; }

    /// <summary>The same with what was trained, at the end.</summary>
    public double? RetentionAfter { get; init; }

    /// <summary>How many questions set apart were answered with a training row's answer; null where none were asked: without a retention data set, or without such questions.</summary>
    public Evaluation.CopiedAnswers? CopiedAnswers { get; init; }

    /// <summary>The step whose weights the training ended with, where it kept those of its best evaluation; null for the last one's.</summary>
    public int? KeptStep { get; init; }

    /// <summary>Where the adapter was saved, or null.</summary>
    public string? OutputPath { get; init; }

    /// <summary>What the user should know although it is no error.</summary>
    public IReadOnlyList<string> Messages { get; init => field = Values.Of(value); } = [];

    /// <summary>
    /// Gives an adapter that was loaded from a training's folder, or from one of its checkpoints, the record that the training left there: options and log.
    /// </summary>
    /// <param name="adapter">The adapter. It stays without a record where its folder has no log.</param>
    public static void TakeUp(PeftAdapter adapter)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        if (adapter.Path is { } folder)
        {
            adapter.TrainingRecord = TrainingLog.Recall(adapter.Name, adapter.TrainableParameters.Sum(static parameter => parameter.Parameter.Count), folder);
        }
    }

    /// <summary>Reads what a training left in its folder: options, log, and what it ran on. No model is needed.</summary>
    /// <param name="folder">The adapter's folder, or a checkpoint's.</param>
    /// <exception cref="PeftException"><c>TrainingRecordMissing</c>: the folder has no log.</exception>
    public static TrainingRecord Read(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        return TrainingLog.Recall(Path.GetFileName(Path.TrimEndingDirectorySeparator(folder)), null, folder)
            ?? throw new PeftException("TrainingRecordMissing", $"'{folder}' holds no log of a training.") { Target = folder };
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{StepCount:N0} steps, loss {FinalLoss:G6}");

    /// <summary>Losses of all steps.</summary>
    public IReadOnlyList<double> Losses => Values.Of(Steps.Select(static step => step.Loss));

    /// <summary>Number of steps.</summary>
    public int StepCount => Steps.Count;

    /// <summary>The last step's loss.</summary>
    public double FinalLoss => Steps.Count == 0 ? double.NaN : Steps[^1].Loss;

    /// <summary>The step with the lowest loss; null where none was made.</summary>
    public StepRecord? BestStep => Steps.Count == 0 ? null : Steps.MinBy(static step => step.Loss);

    /// <summary>The last evaluation; null where there was none.</summary>
    public EvaluationRecord? FinalEvaluation => Evaluations.Count == 0 ? null : Evaluations[^1];

    /// <summary>The evaluation with the lowest loss; null where there was none.</summary>
    public EvaluationRecord? BestEvaluation => Evaluations.Count == 0 ? null : Evaluations.MinBy(static evaluation => evaluation.Loss);

    /// <summary>Time of the training, that of earlier runs included.</summary>
    public TimeSpan Duration => TimeSpan.FromSeconds(Steps.Count == 0 ? 0 : Steps[^1].Seconds);

    /// <summary>Tokens gone through, without padding.</summary>
    public long TokenCount => Steps.Sum(static step => step.Tokens);

    /// <summary>Tokens that carried loss.</summary>
    public long TargetCount => Steps.Sum(static step => step.Targets);

    /// <summary>Share of the tokens that carried no loss (prompts, first tokens).</summary>
    public double MaskedShare => TokenCount == 0 ? 0 : 1 - ((double)TargetCount / TokenCount);

    /// <summary>Tokens a second over the whole training.</summary>
    public double TokensPerSecond => Duration.TotalSeconds > 0 ? TokenCount / Duration.TotalSeconds : 0;
}
