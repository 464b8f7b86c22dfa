using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>How well a classifier finds the classes of a data set's rows.</summary>
/// <param name="Answers">What was right, and what the model said, in the rows' order.</param>
public sealed record ClassificationMeasurement(IReadOnlyList<(string Expected, string Answer)> Answers)
{
    /// <summary>What was right, and what the model said.</summary>
    public IReadOnlyList<(string Expected, string Answer)> Answers { get; } = Values.Of(Answers);

    /// <summary>Rows that were looked at.</summary>
    public int Count => Answers.Count;

    /// <summary>Rows whose class was found.</summary>
    public AnswerScore Accuracy => new(Answers.Count(static pair => pair.Expected == pair.Answer), Count);

    /// <summary>Each class.</summary>
    public IReadOnlyList<ClassScore> Classes => ClassScore.Of(Answers);

    /// <summary>Mean F1 of all classes.</summary>
    public double MacroF1 => Classes.Average(static score => score.F1);

    /// <summary>Has a classifier look at rows.</summary>
    /// <param name="model">A model that gives each row one class.</param>
    /// <param name="data">Rows with a text or an image, and its class.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Rows in a pass.</param>
    /// <param name="onAnswered">Sees how many rows are done.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>ClassesMissing</c>: the model gives values, or several classes a row; or what tokenising throws.</exception>
    public static ClassificationMeasurement Measure(
        PeftModel model, TrainingDataset data, AdapterSelection? selection = null, int batchSize = 8, Action<int>? onAnswered = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        using var held = model.Acquire("measuring answers");
        var labels = ModelLabels.Of(model.Base);
        var (rows, targets) = Read(model, data, labels, cancellation);
        if (model.Base is not SequenceClassificationModel { LabelCount: > 1 } network || targets.Any(static target => target is not { IsClass: true }))
        {
            throw new PeftException("ClassesMissing", $"'{model.Name}' doesn't give each row one class.")
            {
                Target = model.Name,
                RecommendedAction = "Give a model with a head for classes (-TaskType SEQ_CLS -Label), and rows with a text and a label.",
            };
        }

        List<(string, string)> answers = [];
        rows.Pass(model, selection, batchSize, (chunk, batch, pass) =>
        {
            var found = network.Logits(network.Forward(batch.Inputs, pass), pass).argmax(1).cpu().data<long>().ToArray();
            answers.AddRange(chunk.Zip(found, (row, label) => (labels.Spelled((int)targets[row]!.Values[0]), labels.Spelled((int)label))));
            onAnswered?.Invoke(answers.Count);
        }, cancellation);

        return new ClassificationMeasurement(answers);
    }

    /// <summary>The rows as the model reads them, and what is right of each.</summary>
    private static (ITrainingData Rows, IReadOnlyList<RowTarget?> Targets) Read(PeftModel model, TrainingDataset data, ModelLabels labels, CancellationToken cancellation)
    {
        if (ImageClassDataset.AreFor(model))
        {
            var images = ImageClassDataset.Read(data, model, cancellation: cancellation);
            return (images, [.. Enumerable.Range(0, images.Count).Select(images.Target)]);
        }

        var rows = data.Tokenize(model.RequiredTokenizer, new TokenizationOptions { Examples = ExampleKind.Classified, Labels = labels, MaxLength = 1024 }, cancellation: cancellation);
        return (rows, [.. rows.Examples.Select(static example => example.Target)]);
    }

    /// <inheritdoc/>
    public override string ToString() => $"accuracy {Accuracy}";
}
