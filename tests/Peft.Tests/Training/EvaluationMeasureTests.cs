using Peft.Adapters.Model;
using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Evaluation;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

public sealed class EvaluationMeasureTests
{
    /// <summary>The examples of Lin 2004, sections 3.1 and 4: answers to "police killed the gunman".</summary>
    [Theory]
    [InlineData("police kill the gunman", 0.75, 1 / 3.0, 0.75)]
    [InlineData("the gunman kill police", 0.75, 1 / 3.0, 0.5)]
    [InlineData("the gunman police killed", 1.0, 2 / 3.0, 0.5)]
    [InlineData("", 0, 0, 0)]
    public void Rouge_has_the_published_values(string answer, double one, double two, double longest)
    {
        const string Expected = "Police killed the gunman.";
        Assert.Equal(one, TextOverlap.Rouge(Expected, answer), 1e-12);
        Assert.Equal(two, TextOverlap.Rouge(Expected, answer, 2), 1e-12);
        Assert.Equal(longest, TextOverlap.RougeL(Expected, answer), 1e-12);
    }

    [Fact]
    public void Bleu_is_the_mean_of_precisions_and_shortens_for_brevity()
    {
        // "the cat is on the mat ." of 7 tokens; given are "the cat sat on the mat ." with 6, 4, 2 and 1 of 7, 6, 5 and 4 runs right.
        (string, string)[] pairs = [("the cat is on the mat.", "the cat sat on the mat.")];
        Assert.Equal(100 * Math.Pow(6 / 7.0 * (4 / 6.0) * (2 / 5.0) * (1 / 4.0), 0.25), TextOverlap.Bleu(pairs), 1e-9);
        Assert.Equal(100, TextOverlap.Bleu([("It costs $3.50, doesn't it?", "It costs $3.50, doesn't it?")]), 1e-9);

        // Four words of six: all runs right, and exp(1 - 6 / 4) for being short.
        Assert.Equal(100 * Math.Exp(1 - (6 / 4.0)), TextOverlap.Bleu([("a b c d e f", "a b c d")]), 1e-9);

        // No run of four is right, of one there could be: it counts one half.
        Assert.Equal(100 * Math.Pow(3 / 4.0 * (2 / 3.0) * (1 / 2.0) * (0.5 / 1), 0.25), TextOverlap.Bleu([("a b c d", "a b c e")]), 1e-9);
        Assert.Equal(0, TextOverlap.Bleu([("a b c d", "")]));
    }

    [Fact]
    public void The_likeliest_choice_is_the_one_with_the_lowest_loss()
    {
        using var model = PeftModel.Load(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama"), new Peft.Models.LoadOptions { DataType = ScalarType.Float32 });
        var data = TrainingDataset.FromRows([Row("Once upon a", " time"), Row("The king of", "B")]);
        string[] choices = [" time", " xylophone"];
        var measured = ChoiceMeasurement.Measure(model, data, _ => choices);
        Assert.Equal([0, 1], measured.Answers.Select(static answer => answer.Expected));
        foreach (var answer in measured.Answers)
        {
            var losses = choices.Select(choice => Loss(answer.Prompt, choice)).ToArray();
            Assert.All(answer.Likelihoods.Zip(losses), static pair => Assert.Equal(-pair.Second, pair.First, 1e-3));
            Assert.Equal(Array.IndexOf(losses, losses.Min()), answer.Chosen);
        }

        Assert.Equal("ChoiceMissing", Assert.Throws<PeftException>(() => ChoiceMeasurement.Measure(model, data, _ => ["a", " b"])).ErrorId);

        double Loss(string prompt, string choice)
        {
            var whole = TrainingDataset.FromRows([Row(prompt, choice)]).Tokenize(model.RequiredTokenizer);
            int[] ids = [.. whole.Examples[0].InputIds.SkipLast(1)], labels = [.. whole.Examples[0].Labels.SkipLast(1)];
            var result = DatasetPerplexity.Measure(model, new OneRow(new TokenRow(ids, labels)));
            return result.Loss * result.Tokens;
        }

        static Dictionary<string, object?> Row(string prompt, string completion) => new() { ["prompt"] = prompt, ["completion"] = completion };
    }

    [Fact]
    public void Classes_have_precision_recall_and_F1()
    {
        var scores = ClassScore.Of([("a", "a"), ("a", "b"), ("b", "b"), ("c", "b")]);
        Assert.Equal([("a", 2, 1.0, 0.5), ("b", 1, 1 / 3.0, 1.0), ("c", 1, 0.0, 0.0)], scores.Select(static score => (score.Name, score.Count, score.Precision, score.Recall)));
        Assert.Equal([2 / 3.0, 0.5, 0], scores.Select(static score => score.F1), static (left, right) => Math.Abs(left - right) < 1e-12);
    }

    [Fact]
    public void What_is_forgotten_is_measured_before_on_the_way_and_after_and_warned_of()
    {
        using var model = TrainerTests.Model();
        var options = new TrainingOptions { LearningRate = 5e-2, BatchSize = 2, MaxSteps = 12, Seed = 5, EvaluationSplit = 0.25, EvaluationInterval = 6 };
        var general = new RandomRows(20, TinyLlama.Vocabulary);
        var request = TrainerTests.Request(model, options) with { RetentionData = general, RetentionLimit = 0.01 };
        var before = DatasetPerplexity.Measure(model, general, AdapterSelection.Base).Loss;
        var record = new Trainer(request with { RetentionLimit = -10 }).Train();
        Assert.Equal(before, record.RetentionBefore!.Value, 1e-6);
        Assert.Equal(DatasetPerplexity.Measure(model, general).Loss, record.RetentionAfter!.Value, 1e-6);
        Assert.All(record.Evaluations, static evaluation => Assert.Contains("retention_loss", evaluation.Metrics!.Keys));
        Assert.Single(record.Messages, static message => message.Contains("forgets", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("b c d e f", true)]
    [InlineData("b c", false)]
    public void Answers_to_unseen_questions_that_are_training_rows_word_for_word_are_counted_and_warned_of(string learnt, bool isCopied)
    {
        using var folder = new TemporaryFolder();
        var tokenizer = WordTokenizer.In(folder, "a b c d e f q r s t u v w x <end>");
        using var model = TrainerTests.Model();
        var data = Rows(["q", "r", "s", "t"], learnt);
        var request = TrainerTests.Request(model, new TrainingOptions { LearningRate = 5e-2, BatchSize = 4, MaxSteps = 60, Seed = 5 }, data) with
        {
            EvaluationData = Rows(["u", "v", "w", "x"], "f e d c b"),
            RetentionData = new RandomRows(4, 12),
            RetentionLimit = 100,
        };
        var record = new Trainer(request).Train();
        Assert.Equal(4, record.CopiedAnswers!.Asked);
        Assert.InRange(record.CopiedAnswers.Copied, isCopied ? 2 : 0, isCopied ? 4 : 0);
        Assert.Equal(isCopied ? 1 : 0, record.Messages.Count(static message => message.Contains("repeats what it learnt", StringComparison.Ordinal)));

        TokenizedDataset Rows(string[] questions, string answer) =>
            TrainingDataset.FromRows(questions.Select(question => new Dictionary<string, object?> { ["prompt"] = question, ["completion"] = " " + answer })).Tokenize(tokenizer);
    }

    private sealed class OneRow(TokenRow row) : ITrainingData
    {
        public int Count => 1;

        public string Fingerprint => "row";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) => Collator.Padded([row], 0, device);
    }
}
