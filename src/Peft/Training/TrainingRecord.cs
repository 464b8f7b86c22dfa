using Peft.Adapters.Model;
using Peft.Engine;

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

    /// <summary>What the machine decided, with the first step that was computed so; null in those that follow.</summary>
    public ComputeChoice? Compute { get; init; }
}

/// <summary>One evaluation.</summary>
/// <param name="Step">Steps made before it.</param>
/// <param name="Epoch">Epochs over before it.</param>
/// <param name="Loss">Mean of the batches' losses, each counted by its rows.</param>
public readonly record struct EvaluationRecord(int Step, double Epoch, double Loss)
{
    /// <summary>What the objective states beside its loss, as means over the rows; null for nothing.</summary>
    public IReadOnlyDictionary<string, double>? Metrics { get; init; }
}

/// <summary>How a training stands, for whoever shows it.</summary>
/// <param name="Step">Steps made.</param>
/// <param name="TotalSteps">Steps of the whole training.</param>
/// <param name="Epoch">Epochs over.</param>
/// <param name="Loss">The last step's loss.</param>
/// <param name="LearningRate">The rate it used.</param>
/// <param name="TokensPerSecond">Speed over this run.</param>
/// <param name="Remaining">Estimated time left.</param>
public readonly record struct TrainingProgress(
    int Step, int TotalSteps, double Epoch, double Loss, double LearningRate, double TokensPerSecond, TimeSpan Remaining);

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
    public required IReadOnlyList<StepRecord> Steps { get; init; }

    /// <summary>Every evaluation, those before a resumption included.</summary>
    public required IReadOnlyList<EvaluationRecord> Evaluations { get; init; }

    /// <summary>Number of trained parameters.</summary>
    public required long TrainedParameters { get; init; }

    /// <summary>The step from which this run went on; 0 for a training from the start.</summary>
    public int ResumedFrom { get; init; }

    /// <summary>Where the adapter was saved, or null.</summary>
    public string? OutputPath { get; init; }

    /// <summary>What the user should know although it is no error.</summary>
    public IReadOnlyList<string> Messages { get; init; } = [];

    /// <summary>Losses of all steps.</summary>
    public IReadOnlyList<double> Losses => [.. Steps.Select(static step => step.Loss)];

    /// <summary>Number of steps.</summary>
    public int StepCount => Steps.Count;

    /// <summary>The last step's loss.</summary>
    public double FinalLoss => Steps.Count == 0 ? double.NaN : Steps[^1].Loss;

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
