using Peft.Training.Evaluation;

namespace Peft.Training;

/// <summary>Whether a training has waited long enough for a better evaluation, and the weights of the best one, which it ends with where it keeps them.</summary>
internal sealed class BestEvaluation(TrainingOptions options, TrainingOutput? output, IReadOnlyList<TrainedParameter> trained, Action<string> say) : IDisposable
{
    private BestWeights? _weights;

    /// <summary>How it stands.</summary>
    public EvaluationStanding Standing { get; private set; }

    /// <summary>Whether no step is worth making any more.</summary>
    public bool IsEnough => options.EarlyStoppingPatience is { } patience && Standing.Waited >= patience;

    /// <summary>Step of the weights that are kept; null where there are none.</summary>
    public int? Step => _weights?.Step;

    /// <summary>Refuses to keep the best weights where they can't be told.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: there are no rows to evaluate on.</exception>
    public static void RefuseUnevaluated(TrainingOptions options, int rows)
    {
        if (rows == 0 && options.KeepsBest)
        {
            throw new PeftException("TrainingOptionInvalid", "The best weights can't be told where nothing is evaluated.")
            {
                Target = options.EarlyStoppingPatience is null ? "load_best_model_at_end" : "early_stopping_patience",
                RecommendedAction = "Give an evaluation data set, or set a share of the rows apart (-EvaluationSplit).",
            };
        }
    }

    /// <summary>The best weights of a training that goes on are in the checkpoint of their step.</summary>
    /// <param name="evaluations">The evaluations before.</param>
    public void TakeUp(IReadOnlyList<EvaluationRecord> evaluations)
    {
        Standing = EvaluationStanding.Of(evaluations, options);
        if (!options.KeepsBest || Standing.Best is not { } best)
        {
            return;
        }

        Keep(BestWeights.Read(best.Step, output!.CheckpointOf(best.Step)));
        if (_weights is null)
        {
            say(FormattableString.Invariant($"The best evaluation so far was after step {best.Step}, whose checkpoint isn't there any more: only a better one will be kept."));
        }
    }

    /// <summary>An evaluation was made, with the weights that there are.</summary>
    /// <param name="evaluations">All evaluations.</param>
    public void See(IReadOnlyList<EvaluationRecord> evaluations)
    {
        Standing = EvaluationStanding.Of(evaluations, options);
        if (options.KeepsBest && Standing.Best == evaluations[^1])
        {
            Keep(BestWeights.Of(evaluations[^1].Step, trained));
        }
    }

    /// <summary>The training is over: its weights become the best ones, where they are kept.</summary>
    /// <param name="steps">Steps made.</param>
    /// <param name="planned">Steps that were to be made.</param>
    /// <returns>The step whose weights it ends with; null for the last one's.</returns>
    public int? End(int steps, int planned)
    {
        if (IsEnough && steps < planned)
        {
            say(FormattableString.Invariant($"Stopped after step {steps} of {planned}: {Standing.Waited} evaluations in a row weren't better than the one after step {Standing.Best!.Value.Step}."));
        }

        if (_weights is null || _weights.Step == steps || _weights.Step != Standing.Best?.Step)
        {
            return null;
        }

        _weights.Restore(trained);
        say(FormattableString.Invariant($"The weights are those after step {_weights.Step}, the best evaluation ({options.BestMetric} {EvaluationStanding.FigureOf(Standing.Best.Value, options):0.####})."));
        return _weights.Step;
    }

    /// <inheritdoc/>
    public void Dispose() => _weights?.Dispose();

    /// <summary>The checkpoint of the best weights stays, so that a training that goes on has them.</summary>
    private void Keep(BestWeights? weights)
    {
        _weights?.Dispose();
        _weights = weights;
        output?.BestStep = weights?.Step;
    }
}
