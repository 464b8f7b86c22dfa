using Peft.Adapters.Model;
using Peft.Models;

namespace Peft.Training.Evaluation;

/// <summary>What a model still knows of general texts while it learns something else: their loss without the adapter and with it.</summary>
internal sealed class Retention(TrainingRequest request, TrainedPart part, Action<string> say)
{
    /// <summary>The figure's name in evaluations and in the log.</summary>
    public const string Figure = "retention_loss";

    private bool _hasWarned;

    /// <summary>Loss a token without the adapter; of a training of the base itself as it began.</summary>
    public double? Before { get; private set; }

    /// <summary>The last loss that was measured with what is trained.</summary>
    public double? After { get; private set; }

    /// <summary>Measures the model as it was.</summary>
    public void Begin(CancellationToken cancellation) => Before = Measure(AdapterSelection.Base, cancellation);

    /// <summary>Measures the model as it is, and warns once where it has become worse than the limit allows.</summary>
    public void Look(CancellationToken cancellation)
    {
        After = Measure(part.Selection, cancellation);
        if (!_hasWarned && After - Before > request.RetentionLimit)
        {
            _hasWarned = true;
            say(FormattableString.Invariant(
                $"The loss on the texts of the retention data set rose from {Before:0.000} to {After:0.000}: the model forgets what it knew. A lower learning rate or rank, fewer epochs, or such texts among the training data (Join-TrainingDataset) keep more."));
        }
    }

    /// <summary>How many questions set apart got a training row's answer; null before the end, and where none can be asked.</summary>
    public CopiedAnswers? Copied { get; private set; }

    /// <summary>The training is over: measures once more, asks questions that are set apart, and warns where a training row's answers are repeated in place of answering.</summary>
    /// <param name="learnt">Rows that were learnt.</param>
    /// <param name="unseen">Rows that are set apart.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    public void End(IReadOnlyList<int> learnt, IReadOnlyList<int> unseen, CancellationToken cancellation)
    {
        Look(cancellation);
        Copied = CopiedAnswers.Measure(request, part.Selection, learnt, unseen, cancellation);
        if (Copied is { IsMany: true } copied)
        {
            say(FormattableString.Invariant(
                $"{copied.Copied} of {copied.Asked} questions that were not learnt were answered with the answer of a training row, word for word: the model repeats what it learnt in place of answering. Fewer epochs, a lower rank or more and more varied rows help."));
        }
    }

    /// <summary>An evaluation with the figure beside the others.</summary>
    public EvaluationRecord Add(EvaluationRecord evaluation, CancellationToken cancellation)
    {
        Look(cancellation);
        return evaluation with { Metrics = new Dictionary<string, double>(evaluation.Metrics ?? new Dictionary<string, double>()) { [Figure] = After!.Value } };
    }

    private double Measure(AdapterSelection selection, CancellationToken cancellation) =>
        DatasetPerplexity.Measure(request.Model, request.RetentionData!, selection, request.Options.EvaluationBatchSize, cancellation: cancellation).Loss;
}
