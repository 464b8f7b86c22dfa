using System.Text;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tokenization;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>What a model took from a text as the answer to a question, beside what was expected.</summary>
/// <param name="Index">The row's index, counted from 0.</param>
/// <param name="Question">The question.</param>
/// <param name="Expected">All right answers; none where the text has none.</param>
/// <param name="Answer">The model's; empty where it found none.</param>
public sealed record SpanAnswer(int Index, string Question, IReadOnlyList<string> Expected, string Answer)
{
    /// <summary>All right answers.</summary>
    public IReadOnlyList<string> Expected { get; } = Values.Of(Expected);

    /// <summary>Whether it is one of the right answers, but for case, punctuation, articles and white space.</summary>
    public bool IsExact => Rights.Any(right => right.SequenceEqual(Words(Answer)));

    /// <summary>The harmonic mean of precision and recall of its words, beside the right answer for which that is highest.</summary>
    public double F1 => Rights.Max(right => Overlap(right, Words(Answer)));

    /// <inheritdoc/>
    public override string ToString() => Answer;

    private IEnumerable<string[]> Rights => Expected.Count == 0 ? [[]] : Expected.Select(Words);

    /// <summary>The words of an answer as SQuAD compares them (Rajpurkar et al. 2016): in lower case, without ASCII punctuation and English articles.</summary>
    private static string[] Words(string text)
    {
        var plain = new StringBuilder(text.Length);
        foreach (var character in text.ToLowerInvariant())
        {
            if (!char.IsAscii(character) || !(char.IsPunctuation(character) || char.IsSymbol(character)))
            {
                plain.Append(character);
            }
        }

        return [.. plain.ToString().Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries).Where(static word => word is not ("a" or "an" or "the"))];
    }

    private static double Overlap(string[] right, string[] said)
    {
        if (right.Length == 0 || said.Length == 0)
        {
            return right.Length == said.Length ? 1 : 0;
        }

        var left = right.CountBy(static word => word).ToDictionary(StringComparer.Ordinal);
        double common = said.CountBy(static word => word).Sum(pair => Math.Min(pair.Value, left.GetValueOrDefault(pair.Key)));
        return 2 * common / (right.Length + said.Length);
    }
}

/// <summary>How well a model finds answers in texts, by the measures of SQuAD (Rajpurkar et al. 2016, 2018).</summary>
/// <param name="Answers">Every question.</param>
public sealed record SpanMeasurement(IReadOnlyList<SpanAnswer> Answers)
{
    private const int LongestRow = 1024;

    /// <summary>Tokens that an answer may have, as in transformers' scripts.</summary>
    private const int LongestAnswer = 30;

    /// <summary>Every question.</summary>
    public IReadOnlyList<SpanAnswer> Answers { get; } = Values.Of(Answers);

    /// <summary>Questions that were asked.</summary>
    public int Count => Answers.Count;

    /// <summary>Questions with a right answer.</summary>
    public AnswerScore ExactMatch => new(Answers.Count(static answer => answer.IsExact), Count);

    /// <summary>Mean F1 of the answers' words.</summary>
    public double F1 => Answers.Average(static answer => answer.F1);

    /// <summary>Has a model find the answers to questions.</summary>
    /// <param name="model">A model that says where in a text an answer begins and ends.</param>
    /// <param name="data">Rows with a question, a text and the answers to it. Where some have none the model may find none, too.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Questions in a pass.</param>
    /// <param name="onAnswered">Sees how many questions are done.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>ClassesMissing</c>: the model doesn't; or what tokenising throws.</exception>
    public static SpanMeasurement Measure(
        PeftModel model, TrainingDataset data, AdapterSelection? selection = null, int batchSize = 8, Action<int>? onAnswered = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(batchSize);
        using var held = model.Acquire("measuring answers");
        var network = model.Base as QuestionAnsweringModel ?? throw new PeftException("ClassesMissing", $"'{model.Name}' doesn't find answers in a text.")
        {
            Target = model.Name,
            RecommendedAction = "Give a model with a head for questions (-TaskType QUESTION_ANS).",
        };
        var tokenizer = model.RequiredTokenizer;
        var rows = data.Tokenize(tokenizer, new TokenizationOptions { Examples = ExampleKind.Span, MaxLength = LongestRow }, cancellation: cancellation);
        SpanQuestion[] questions = [.. rows.Examples.Select(example => SpanQuestion.Of(example.Row, (example.Row.Source ?? data).ColumnsFor(ExampleKind.Span)))];
        var mayBeNone = Array.Exists(questions, static question => question.Answers.Count == 0);
        List<SpanAnswer> answers = [];
        rows.Pass(model, selection, batchSize, (chunk, batch, pass) =>
        {
            var output = network.Forward(batch.Inputs, pass);
            var scores = network.Logits(output, pass).view(output.Rows, output.Length, 2).to(ScalarType.Float32).cpu();
            for (var i = 0; i < chunk.Length; i++)
            {
                var (question, own) = (questions[chunk[i]], scores[i].narrow(0, output.VirtualLength, rows.Examples[chunk[i]].InputIds.Length));
                var (first, last) = (own.select(1, 0).contiguous().data<float>().ToArray(), own.select(1, 1).contiguous().data<float>().ToArray());
                answers.Add(new SpanAnswer(chunk[i], question.Question, question.Answers, Best(question, tokenizer.Encode(question.Question, question.Context), first, last, mayBeNone)));
            }

            onAnswered?.Invoke(answers.Count);
        }, cancellation);

        return new SpanMeasurement(answers);
    }

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"exact {ExactMatch}, F1 {F1:0.###}");

    /// <summary>The stretch of the text whose first and last token have the highest sum of scores; nothing where the first token of all, which stands for none, has a higher one.</summary>
    private static string Best(SpanQuestion question, TokenEncoding encoding, float[] first, float[] last, bool mayBeNone)
    {
        // Of a row that was cut the last token is what ends every row.
        var count = first.Length < encoding.Count ? first.Length - 1 : first.Length;
        var (best, from, to) = (mayBeNone ? first[0] + last[0] : double.NegativeInfinity, -1, -1);
        for (var i = 0; i < count; i++)
        {
            for (var j = i; j < Math.Min(count, i + LongestAnswer) && encoding.SequenceIds[i] == 1 && encoding.SequenceIds[j] == 1; j++)
            {
                if ((double)first[i] + last[j] > best)
                {
                    (best, from, to) = ((double)first[i] + last[j], i, j);
                }
            }
        }

        return from < 0 ? "" : question.Context[encoding.Offsets[from].Start..encoding.Offsets[to].End].Trim();
    }

    /// <summary>A row of such a data set.</summary>
    private sealed record SpanQuestion(string Question, string Context, IReadOnlyList<string> Answers)
    {
        public static SpanQuestion Of(TrainingRow row, DatasetColumns columns)
        {
            var answer = columns[ColumnRole.Answer]!;
            var texts = row.Value(answer) is IReadOnlyDictionary<string, object?> several
                ? several.GetValueOrDefault("text") switch { IReadOnlyList<object?> list => list.OfType<string>(), string one => [one], _ => [] }
                : [row.Text(answer)];
            return new SpanQuestion(row.Text(columns[ColumnRole.Question]!), row.Text(columns[ColumnRole.Context]!), [.. texts.Where(static text => text.Length > 0).Distinct()]);
        }
    }
}
