namespace Peft.Training.Evaluation;

/// <summary>How the evaluations of a training stand: a function of what was measured, so that a training that goes on stands where it stood.</summary>
/// <param name="Best">The best evaluation; null before the first.</param>
/// <param name="Waited">Evaluations since the figure last became better by more than the threshold.</param>
internal readonly record struct EvaluationStanding(EvaluationRecord? Best, int Waited)
{
    /// <summary>Looks at evaluations in their order.</summary>
    /// <param name="evaluations">The evaluations.</param>
    /// <param name="options">Which figure counts, and by how much it has to become better.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: nobody states the figure.</exception>
    public static EvaluationStanding Of(IEnumerable<EvaluationRecord> evaluations, TrainingOptions options)
    {
        var standing = new EvaluationStanding(null, 0);
        foreach (var evaluation in evaluations)
        {
            var gain = standing.Best is { } best ? FigureOf(best, options) - FigureOf(evaluation, options) : double.PositiveInfinity;
            gain = options.GreaterIsBetter && standing.Best is not null ? -gain : gain;
            standing = new EvaluationStanding(gain > 0 ? evaluation : standing.Best, gain > options.EarlyStoppingThreshold ? 0 : standing.Waited + 1);
        }

        return standing;
    }

    /// <summary>The figure that counts, by the name it has in the log, with <c>eval_</c> before it or without.</summary>
    public static double FigureOf(EvaluationRecord evaluation, TrainingOptions options)
    {
        const string Prefix = "eval_";
        var name = options.BestMetric.StartsWith(Prefix, StringComparison.Ordinal) ? options.BestMetric[Prefix.Length..] : options.BestMetric;
        return name == "loss" ? evaluation.Loss
            : evaluation.Metrics?.TryGetValue(name, out var value) == true ? value
            : throw new PeftException("TrainingOptionInvalid", $"An evaluation of this training has no figure '{options.BestMetric}'. It has {string.Join(", ", evaluation.Metrics?.Keys.Prepend("loss") ?? ["loss"])}.")
            {
                Target = "metric_for_best_model",
                RecommendedAction = "Name one of these.",
            };
    }
}
