using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Evaluation;

/// <summary>A question with several answers, and which of them a model finds likeliest.</summary>
/// <param name="Index">The row's index, counted from 0.</param>
/// <param name="Prompt">The question as the model read it.</param>
/// <param name="Choices">The answers.</param>
/// <param name="Expected">The right one's index.</param>
/// <param name="Likelihoods">Log-probability of each answer's tokens.</param>
public sealed record ChoiceAnswer(int Index, string Prompt, IReadOnlyList<string> Choices, int Expected, IReadOnlyList<double> Likelihoods)
{
    /// <summary>Index of the likeliest answer.</summary>
    public int Chosen => Best(Likelihoods);

    /// <summary>Index of the answer that is likeliest for its length in bytes.</summary>
    public int ChosenByLength => Best([.. Likelihoods.Zip(Choices, static (likelihood, choice) => likelihood / Math.Max(1, System.Text.Encoding.UTF8.GetByteCount(choice)))]);

    /// <summary>Whether the likeliest answer is the right one.</summary>
    public bool IsRight => Chosen == Expected;

    /// <inheritdoc/>
    public override string ToString() => Choices[Chosen];

    private static int Best(IReadOnlyList<double> figures) => figures.ToList().IndexOf(figures.Max());
}

/// <summary>How often a model finds the right one of several answers likeliest.</summary>
/// <param name="Answers">Every question.</param>
public sealed record ChoiceMeasurement(IReadOnlyList<ChoiceAnswer> Answers)
{
    /// <summary>Every question.</summary>
    public IReadOnlyList<ChoiceAnswer> Answers { get; } = Values.Of(Answers);

    /// <summary>Questions that were asked.</summary>
    public int Count => Answers.Count;

    /// <summary>Those whose right answer is the likeliest.</summary>
    public AnswerScore Accuracy => new(Answers.Count(static answer => answer.IsRight), Count);

    /// <summary>Those whose right answer is the likeliest for its length: long answers are unlikely for being long.</summary>
    public AnswerScore AccuracyByLength => new(Answers.Count(static answer => answer.ChosenByLength == answer.Expected), Count);

    /// <summary>Of each right answer how often it came and how well it was found, in the order in which they first came; of use where all questions have the same choices.</summary>
    public IReadOnlyList<ClassScore> Classes => ClassScore.Of(Answers.Select(static answer => (answer.Choices[answer.Expected], answer.Choices[answer.Chosen])));

    /// <summary>Mean F1 of all classes.</summary>
    public double MacroF1 => Classes.Average(static score => score.F1);

    /// <summary>Has a model rate the answers to questions.</summary>
    /// <param name="model">A causal language model with a tokenizer.</param>
    /// <param name="data">Rows with prompts and answers.</param>
    /// <param name="choices">The answers to choose from of each row, by its index; the row's own answer is one of them, or the number or letter (A, B, …) of one.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Answers in a pass.</param>
    /// <param name="onAnswered">Sees how many questions are done.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>AnswersMissing</c>, <c>ChoiceMissing</c>: a row's answer is none of its choices.</exception>
    public static ChoiceMeasurement Measure(
        PeftModel model, TrainingDataset data, Func<int, IReadOnlyList<string>> choices, AdapterSelection? selection = null, int batchSize = 8, Action<int>? onAnswered = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(choices);
        using var held = model.Acquire("measuring answers");
        using var noGrad = no_grad();
        var (network, tokenizer) = (TextGenerator.RequireNetwork(model), model.RequiredTokenizer);
        List<ChoiceAnswer> answers = [];
        foreach (var question in data.Questions(tokenizer, cancellation))
        {
            var offered = choices(question.Index);
            var expected = IndexOf(offered, question.Answer, question.Index);
            TokenRow[] rows = [.. offered.Select(choice => Row(question, choice))];
            answers.Add(new ChoiceAnswer(question.Index, question.Prompt, offered, expected, [.. rows.Chunk(batchSize).SelectMany(Likelihoods)]));
            onAnswered?.Invoke(answers.Count);
        }

        return new ChoiceMeasurement(answers);

        // As in training: the answer begins where the prompt's tokens and those of both together part.
        TokenRow Row(DatasetQuestion question, string choice)
        {
            int[] prompt = [.. question.PromptIds];
            var ids = tokenizer.EncodeWhole(question.Prompt).AsSpan().SequenceEqual(prompt)
                ? tokenizer.EncodeWhole(question.Prompt + Joined(question, choice))
                : [.. prompt, .. tokenizer.EncodeIds(choice, addSpecialTokens: false)];
            int[] labels = [.. ids];
            labels.AsSpan(0, Math.Min(prompt.AsSpan().CommonPrefixLength(ids), ids.Length - 1)).Fill(TrainingExample.Ignored);
            return new TokenRow(ids, labels);
        }

        double[] Likelihoods(TokenRow[] rows)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = Collator.Padded(rows, tokenizer.PadTokenId ?? 0, model.Device);
            var pass = model.NewPass(batch.In(new ForwardContext { Cancellation = cancellation }), selection);
            return network.TokenLosses(network.Forward(batch.InputIds, pass), batch.Labels, pass).sum(1).neg().to(ScalarType.Float64).cpu().data<double>().ToArray();
        }
    }

    /// <summary>Choices stand as the data set's answers do: with a space in front where these have one.</summary>
    private static string Joined(DatasetQuestion question, string choice) =>
        question.Answer.StartsWith(' ') && !choice.StartsWith(' ') ? " " + choice : choice;

    private static int IndexOf(IReadOnlyList<string> choices, string answer, int row)
    {
        answer = answer.Trim();
        var found = choices.ToList().FindIndex(choice => choice.Trim() == answer);
        found = found < 0 && answer is [>= 'A' and <= 'Z' and var letter] && letter - 'A' < choices.Count ? letter - 'A' : found;
        found = found < 0 && int.TryParse(answer, System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out var number) && number < choices.Count ? number : found;
        return found >= 0 ? found : throw new PeftException("ChoiceMissing", FormattableString.Invariant($"Row {row + 1}: the answer '{answer}' is none of {string.Join(", ", choices.Select(static choice => $"'{choice}'"))}."))
        {
            Target = answer,
            RecommendedAction = "Give the row's answer among its choices, as text, or by number from 0 or letter from A.",
        };
    }
}

/// <summary>How well a class was found.</summary>
/// <param name="Name">The class.</param>
/// <param name="Count">How often it was the right one.</param>
/// <param name="Precision">Which share of those that were said to be it are it; 0 where none was.</param>
/// <param name="Recall">Which share of those that are it was found.</param>
public sealed record ClassScore(string Name, int Count, double Precision, double Recall)
{
    /// <summary>The harmonic mean of precision and recall.</summary>
    public double F1 => Precision + Recall == 0 ? 0 : 2 * Precision * Recall / (Precision + Recall);

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"{Name} ({Count}): F1 {F1:0.###}");

    /// <summary>The scores of the classes that were expected, in the order in which they first came.</summary>
    /// <param name="pairs">What was right, and what was said.</param>
    public static IReadOnlyList<ClassScore> Of(IEnumerable<(string Expected, string Answer)> pairs)
    {
        var all = pairs.ToList();
        return [.. all.Select(static pair => pair.Expected).Distinct().Select(name =>
        {
            var (right, said, count) = (all.Count(pair => pair.Expected == name && pair.Answer == name), all.Count(pair => pair.Answer == name), all.Count(pair => pair.Expected == name));
            return new ClassScore(name, count, said == 0 ? 0 : (double)right / said, (double)right / count);
        })];
    }
}
