using System.Diagnostics;

namespace Peft.Training;

/// <summary>After which steps a training evaluates, and after which it writes a checkpoint: by steps, epochs or time.</summary>
internal sealed class Milestones(TrainingOptions options, TrainingPlan plan)
{
    private readonly Stopwatch _sinceEvaluation = Stopwatch.StartNew();
    private readonly Stopwatch _sinceCheckpoint = Stopwatch.StartNew();

    /// <summary>Whether an evaluation is due; the last step always has one.</summary>
    /// <param name="steps">Steps made.</param>
    public bool EvaluationIsDue(int steps) => steps == plan.TotalSteps || IsDue(options.EvaluationStrategy, options.EvaluationInterval, options.EvaluationSeconds, _sinceEvaluation, steps, withoutInterval: true);

    /// <summary>Whether a checkpoint is due.</summary>
    /// <param name="steps">Steps made.</param>
    public bool CheckpointIsDue(int steps) => IsDue(options.CheckpointStrategy, options.CheckpointInterval, options.CheckpointSeconds, _sinceCheckpoint, steps, withoutInterval: false);

    /// <summary>An evaluation was made.</summary>
    public void Evaluated() => _sinceEvaluation.Restart();

    /// <summary>A checkpoint was written, or couldn't be.</summary>
    public void Saved() => _sinceCheckpoint.Restart();

    private bool IsDue(string strategy, int interval, double seconds, Stopwatch since, int steps, bool withoutInterval) => strategy switch
    {
        "epoch" => plan.EndsEpoch(steps - 1),
        "time" => since.Elapsed.TotalSeconds >= seconds,
        _ => interval > 0 ? steps % interval == 0 : withoutInterval && plan.EndsEpoch(steps - 1),
    };
}
