using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using Peft.Training.Data;

namespace Peft.Training.Evaluation;

/// <summary>How well a model answers the questions of a data set, by several measures at once.</summary>
/// <param name="Answers">Every answer.</param>
public sealed record AnswerMeasurement(IReadOnlyList<TextAnswer> Answers)
{
    private const int SpareTokens = 16;

    /// <summary>Every answer.</summary>
    public IReadOnlyList<TextAnswer> Answers { get; } = Values.Of(Answers);

    /// <summary>Questions that were asked.</summary>
    public int Count => Answers.Count;

    /// <summary>Answers that are the expected text.</summary>
    public AnswerScore Exact => Score(static answer => answer.IsExact);

    /// <summary>Answers that are the expected words.</summary>
    public AnswerScore Normalized => Score(static answer => answer.IsNormalized);

    /// <summary>Answers that have the expected words in them.</summary>
    public AnswerScore Contains => Score(static answer => answer.IsContained);

    /// <summary>Mean ROUGE-1 of the answers: single words in common, from 0 to 1.</summary>
    public double Rouge1 => Answers.Average(static answer => TextOverlap.Rouge(answer.Expected, answer.Answer));

    /// <summary>Mean ROUGE-2: pairs of words in common.</summary>
    public double Rouge2 => Answers.Average(static answer => TextOverlap.Rouge(answer.Expected, answer.Answer, 2));

    /// <summary>Mean ROUGE-L: words in common in the same order.</summary>
    public double RougeL => Answers.Average(static answer => TextOverlap.RougeL(answer.Expected, answer.Answer));

    /// <summary>BLEU of all answers together, from 0 to 100.</summary>
    public double Bleu => TextOverlap.Bleu(Answers.Select(static answer => (answer.Expected.Trim(), answer.Answer.Trim())));

    /// <summary>Answers that the user's own test let pass; null where there was none.</summary>
    public AnswerScore? Passed => Answers.Any(static answer => answer.IsPassed is null) ? null : Score(static answer => answer.IsPassed == true);

    /// <summary>Asks a model the questions of a data set: what stands before the answer that the data set has.</summary>
    /// <param name="model">A causal language model with a tokenizer.</param>
    /// <param name="data">Rows with prompts and answers; of a conversation the assistant's last message is the answer.</param>
    /// <param name="options">How to continue; null for the likeliest tokens, as many as the longest expected answer has and a few more.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="batchSize">Questions that are asked at once.</param>
    /// <param name="onAnswered">Sees how many questions are answered.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>AnswersMissing</c>: the rows have none; or what tokenising and generating throw.</exception>
    public static AnswerMeasurement Measure(
        PeftModel model,
        TrainingDataset data,
        GenerationOptions? options = null,
        AdapterSelection? selection = null,
        int batchSize = 8,
        Action<int>? onAnswered = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(batchSize);
        using var held = model.Acquire("measuring answers");
        var tokenizer = model.RequiredTokenizer;
        var generator = new TextGenerator(model);
        var questions = data.Questions(tokenizer, cancellation);
        options ??= new GenerationOptions { MaxNewTokens = LengthFor(questions, tokenizer) };
        List<TextAnswer> answers = [];
        foreach (var batch in questions.Chunk(batchSize))
        {
            var results = generator.Generate([.. batch.Select(static question => question.PromptIds)], options, selection, onChunk: null, cancellation);
            answers.AddRange(batch.Zip(results, (question, result) => new TextAnswer(question.Index, question.Prompt, question.Answer, result.Text)));
            onAnswered?.Invoke(answers.Count);
        }

        return new AnswerMeasurement(answers);
    }

    /// <summary>Tokens that an answer may have: as many as the longest expected one has, and a few more.</summary>
    /// <param name="questions">The questions.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    public static int LengthFor(IReadOnlyList<DatasetQuestion> questions, Tokenization.Tokenizer tokenizer) =>
        questions.Max(question => tokenizer.EncodeIds(question.Answer, addSpecialTokens: false).Length) + SpareTokens;

    /// <inheritdoc/>
    public override string ToString() => $"exact {Exact}";

    private AnswerScore Score(Func<TextAnswer, bool> holds) => new(Answers.Count(holds), Answers.Count);
}
