using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// What the objectives of models with a head for labels share. As in transformers each micro batch's loss is a plain mean, so that their gradients add up; <c>average</c> weighs
/// micro batches by their labels and averages over the step.
/// </summary>
public abstract class LabelObjective : IObjective
{
    private readonly bool _averages;

    private protected LabelObjective(NamedOptions options) => _averages = options.Flag("average") ?? false;

    /// <inheritdoc/>
    public abstract string Name { get; }

    /// <inheritdoc/>
    public abstract ExampleKind ExampleKind { get; }

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var mean = Mean(pass);
        return _averages && pass.Divisor is { } divisor ? pass.Formula(inputs => inputs[0].mul(pass.Batch.TargetCount / divisor), mean) : mean;
    }

    /// <summary>The batch's own mean, known to the tape.</summary>
    private protected abstract Tensor Mean(ObjectivePass pass);

    /// <summary>States how many of some choices are right.</summary>
    private protected static void ReportAccuracy(ObjectivePass pass, Tensor right, Tensor? counted = null)
    {
        using var noGrad = no_grad();
        pass.Report("accuracy", right.to(ScalarType.Float32).sum(), counted is null ? right.numel() : pass.Batch.TargetCount);
    }
}

/// <summary>A class, several classes or a value for each row, whichever the model's head gives (<c>problem_type</c>, or what the labels look like).</summary>
public sealed class SequenceClassification : LabelObjective
{
    internal SequenceClassification(NamedOptions options)
        : base(options)
    {
    }

    /// <inheritdoc/>
    public override string Name => "sequence_classification";

    /// <inheritdoc/>
    public override ExampleKind ExampleKind => ExampleKind.Classified;

    private protected override Tensor Mean(ObjectivePass pass)
    {
        var model = pass.Head<SequenceClassificationModel>("a model that classifies rows", "a head for classes, such as BertForSequenceClassification");
        var (labels, context) = (pass.Batch.Labels, pass.Context);
        var logits = model.Logits(model.Forward(pass.Batch.Inputs, context), context);
        using (no_grad())
        {
            if (labels.is_integral() && labels.dim() == 1)
            {
                ReportAccuracy(pass, logits.argmax(-1).eq(labels));
            }
            else if (model.LabelCount > 1)
            {
                ReportAccuracy(pass, logits.gt(0).eq(labels.gt(0.5)));
            }
            else
            {
                pass.Report("mean_absolute_error", logits.to(ScalarType.Float32).reshape(-1).sub(labels.reshape(-1)).abs().sum(), labels.numel());
            }
        }

        return model.Loss(logits, labels, context);
    }
}

/// <summary>A class for each labelled token.</summary>
public sealed class TokenClassification : LabelObjective
{
    internal TokenClassification(NamedOptions options)
        : base(options)
    {
    }

    /// <inheritdoc/>
    public override string Name => "token_classification";

    /// <inheritdoc/>
    public override ExampleKind ExampleKind => ExampleKind.Tagged;

    private protected override Tensor Mean(ObjectivePass pass)
    {
        var model = pass.Head<TokenClassificationModel>("a model that classifies tokens", "a head for tokens, such as BertForTokenClassification");
        var output = model.Forward(pass.Batch.Inputs, pass.Context);
        var logits = model.Logits(output, pass.Context);
        using (no_grad())
        {
            ReportAccuracy(pass, logits.argmax(-1).eq(output.Aligned(pass.Batch.Labels).reshape(-1)), pass.Batch.Labels);
        }

        return model.Loss(output, logits, pass.Batch.Labels, pass.Context);
    }
}

/// <summary>Where in a text the answer to a question begins and ends.</summary>
public sealed class QuestionAnswering : IObjective
{
    /// <inheritdoc/>
    public string Name => "question_answering";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Span;

    /// <summary>transformers counts no items here: micro batches count alike.</summary>
    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var model = pass.Head<QuestionAnsweringModel>("a model that finds answers in a text", "a head for questions, such as BertForQuestionAnswering");
        var (context, starts, ends) = (pass.Context, pass.Batch.Labels.select(1, 0), pass.Batch.Labels.select(1, 1));
        var output = model.Forward(pass.Batch.Inputs, context);
        var logits = model.Logits(output, context);
        Report(pass, output, logits, starts, ends);
        var loss = model.Loss(output, logits, starts, ends, context);
        return pass.Divisor is { } divisor ? pass.Formula(inputs => inputs[0].div(divisor), loss) : loss;
    }

    private static void Report(ObjectivePass pass, BackboneOutput output, Tensor logits, Tensor starts, Tensor ends)
    {
        using var noGrad = no_grad();
        var best = logits.view(output.Rows, output.Length, 2).argmax(1).sub(output.VirtualLength);
        var right = best.select(1, 0).eq(starts).logical_and(best.select(1, 1).eq(ends));
        pass.Report("exact_match", right.to(ScalarType.Float32).sum(), output.Rows);
    }
}
