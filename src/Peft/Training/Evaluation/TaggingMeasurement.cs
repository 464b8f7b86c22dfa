using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>What each labelled word of a row is, and what a model said it is.</summary>
/// <param name="Index">The row's index among those that were looked at, counted from 0.</param>
/// <param name="Expected">The right classes, such as <c>B-PER</c> and <c>O</c>.</param>
/// <param name="Answer">The model's.</param>
public sealed record TaggedRow(int Index, IReadOnlyList<string> Expected, IReadOnlyList<string> Answer)
{
    /// <summary>The right classes.</summary>
    public IReadOnlyList<string> Expected { get; } = Values.Of(Expected);

    /// <summary>The model's classes.</summary>
    public IReadOnlyList<string> Answer { get; } = Values.Of(Answer);

    /// <inheritdoc/>
    public override string ToString() => string.Join(' ', Answer);
}

/// <summary>
/// How well a model finds the entities of a data set's rows, counted as in the shared task of CoNLL 2003 (Tjong Kim Sang and De Meulder 2003) and by seqeval: an entity is found where its
/// kind, its first and its last word are right.
/// </summary>
/// <param name="Answers">Every row.</param>
public sealed record TaggingMeasurement(IReadOnlyList<TaggedRow> Answers)
{
    private const int LongestRow = 1024;

    /// <summary>Every row.</summary>
    public IReadOnlyList<TaggedRow> Answers { get; } = Values.Of(Answers);

    /// <summary>Rows that were looked at.</summary>
    public int Count => Answers.Count;

    /// <summary>Labelled words whose class is right, those outside entities too.</summary>
    public AnswerScore Accuracy => new(Answers.Sum(static row => row.Expected.Zip(row.Answer).Count(static pair => pair.First == pair.Second)), Answers.Sum(static row => row.Expected.Count));

    /// <summary>Which share of the entities that the model named are right; 0 where it named none.</summary>
    public double Precision => All.Precision;

    /// <summary>Which share of the entities were found; 0 where there are none.</summary>
    public double Recall => All.Recall;

    /// <summary>The harmonic mean of precision and recall over all entities.</summary>
    public double F1 => All.F1;

    /// <summary>Mean F1 of all kinds of entities.</summary>
    public double MacroF1 => Entities.Select(static score => score.F1).DefaultIfEmpty().Average();

    /// <summary>Each kind of entity that is there or was named, in alphabetical order.</summary>
    public IReadOnlyList<ClassScore> Entities
    {
        get
        {
            var (expected, named) = Spans();
            return
            [
                .. expected.Concat(named).Select(static span => span.Kind).Distinct().Order(StringComparer.Ordinal)
                    .Select(kind => Score(kind, [.. expected.Where(span => span.Kind == kind)], [.. named.Where(span => span.Kind == kind)])),
            ];
        }
    }

    private ClassScore All => Spans() is var (expected, named) ? Score("", expected, named) : throw new InvalidOperationException();

    /// <summary>Has a model name the words of rows.</summary>
    /// <param name="model">A model that gives each token a class.</param>
    /// <param name="data">Rows with words and their classes; of a word of several tokens the first one's class counts.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Rows in a pass.</param>
    /// <param name="onAnswered">Sees how many rows are done.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>ClassesMissing</c>: the model doesn't; or what tokenising throws.</exception>
    public static TaggingMeasurement Measure(
        PeftModel model, TrainingDataset data, AdapterSelection? selection = null, int batchSize = 8, Action<int>? onAnswered = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(batchSize);
        using var held = model.Acquire("measuring answers");
        var network = model.Base as TokenClassificationModel ?? throw new PeftException("ClassesMissing", $"'{model.Name}' doesn't give each word a class.")
        {
            Target = model.Name,
            RecommendedAction = "Give a model with a head for tokens (-TaskType TOKEN_CLS -Label).",
        };
        var labels = ModelLabels.Of(model.Base);
        var rows = data.Tokenize(model.RequiredTokenizer, new TokenizationOptions { Examples = ExampleKind.Tagged, Labels = labels, MaxLength = LongestRow }, cancellation: cancellation);
        List<TaggedRow> answers = [];
        rows.Pass(model, selection, batchSize, (chunk, batch, pass) =>
        {
            var output = network.Forward(batch.Inputs, pass);
            var found = network.Logits(output, pass).argmax(-1).view(output.Rows, output.Length).narrow(1, output.VirtualLength, output.Length - output.VirtualLength).cpu();
            for (var i = 0; i < chunk.Length; i++)
            {
                var (said, right) = (found[i].data<long>().ToArray(), rows.Examples[chunk[i]].Labels);
                int[] places = [.. Enumerable.Range(0, right.Length).Where(at => right[at] != TrainingExample.Ignored)];
                answers.Add(new TaggedRow(chunk[i], [.. places.Select(at => labels.Spelled(right[at]))], [.. places.Select(at => labels.Spelled((int)said[at]))]));
            }

            onAnswered?.Invoke(answers.Count);
        }, cancellation);

        return new TaggingMeasurement(answers);
    }

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"entities' F1 {F1:0.###}, precision {Precision:0.###}, recall {Recall:0.###}");

    /// <summary>
    /// The entities of a row's classes. A prefix says where in its entity a word stands: B begins one, I goes on, E ends one, S (or U) is one by itself; L ends one as well. Where an entity goes
    /// on that never began, or as another kind, a new one begins. Classes without a prefix go on.
    /// </summary>
    internal static IEnumerable<EntitySpan> EntitiesOf(int row, IReadOnlyList<string> classes)
    {
        var (kind, start, hasEnded) = ("", 0, true);
        for (var i = 0; i <= classes.Count; i++)
        {
            var (place, own) = i == classes.Count ? ('O', "") : Parsed(classes[i]);
            var begins = place != 'O' && (hasEnded || place is 'B' or 'S' or 'U' || own != kind);
            if (kind.Length > 0 && (begins || place == 'O'))
            {
                yield return new EntitySpan(row, kind, start, i - 1);
            }

            (kind, start) = place == 'O' ? ("", 0) : (own, begins ? i : start);
            hasEnded = place is 'O' or 'E' or 'L' or 'S' or 'U';
        }
    }

    private static (char Place, string Kind) Parsed(string name) => name switch
    {
        "O" or "" => ('O', ""),
        ['B' or 'I' or 'E' or 'L' or 'S' or 'U', '-', .. { Length: > 0 } kind] => (name[0], kind),
        _ => ('I', name),
    };

    private (IReadOnlyList<EntitySpan> Expected, IReadOnlyList<EntitySpan> Named) Spans() => (
        [.. Answers.SelectMany(static (row, i) => EntitiesOf(i, row.Expected))],
        [.. Answers.SelectMany(static (row, i) => EntitiesOf(i, row.Answer))]);

    private static ClassScore Score(string kind, IReadOnlyList<EntitySpan> expected, IReadOnlyList<EntitySpan> named)
    {
        double right = expected.ToHashSet().Intersect(named).Count();
        return new ClassScore(kind, expected.Count, named.Count == 0 ? 0 : right / named.Count, expected.Count == 0 ? 0 : right / expected.Count);
    }

    /// <summary>An entity's words.</summary>
    internal readonly record struct EntitySpan(int Row, string Kind, int First, int Last);
}
