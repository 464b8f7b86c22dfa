using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
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
    private static readonly JsonNode s_measures =
        JsonNode.Parse(File.ReadAllText(Path.Combine(GoldenCases.Repository, "tests", "references", "measures", "measures.json")))!;

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

    /// <summary><c>tests/references/measures/make.py</c> recorded them, from the definitions.</summary>
    [Fact]
    public void Entities_are_found_whole_and_of_the_right_kind_as_the_definition_says()
    {
        foreach (var recorded in s_measures["tagging"]!.AsArray())
        {
            var measured = new TaggingMeasurement([.. recorded!["rows"]!.AsArray().Select(static (row, i) => new TaggedRow(i, Texts(row![0]), Texts(row[1])))]);
            Assert.Equal(((int)recorded["hits"]!, (int)recorded["words"]!), (measured.Accuracy.Hits, measured.Accuracy.Count));
            Same(recorded["all"]!, (measured.Precision, measured.Recall, measured.F1));
            var kinds = recorded["kinds"]!.AsArray();
            Assert.Equal(kinds.Select(static kind => ((string)kind!["name"]!, (int)kind["count"]!)), measured.Entities.Select(static score => (score.Name, score.Count)));
            Assert.All(kinds.Zip(measured.Entities), static pair => Same(pair.First!, (pair.Second.Precision, pair.Second.Recall, pair.Second.F1)));
        }

        static void Same(JsonNode recorded, (double Precision, double Recall, double F1) found) =>
            Assert.Equal([(double)recorded["precision"]!, (double)recorded["recall"]!, (double)recorded["f1"]!], [found.Precision, found.Recall, found.F1], static (left, right) => Math.Abs(left - right) < 1e-12);
    }

    [Fact]
    public void Classes_without_a_prefix_are_entities_as_long_as_they_go_on()
    {
        var measured = new TaggingMeasurement([new TaggedRow(0, ["NOUN", "NOUN", "O", "VERB"], ["NOUN", "NOUN", "VERB", "VERB"])]);
        Assert.Equal([("NOUN", 1, 1.0), ("VERB", 1, 0.0)], measured.Entities.Select(static score => (score.Name, score.Count, score.Recall)));
        Assert.Equal(0, new TaggingMeasurement([new TaggedRow(0, ["O"], ["O"])]).F1);
    }

    [Fact]
    public void Answers_from_a_text_have_exact_match_and_F1_as_the_definition_says()
    {
        var recorded = s_measures["spans"]!.AsArray();
        SpanAnswer[] answers = [.. recorded.Select(static (span, i) => new SpanAnswer(i, "", Texts(span!["expected"]), (string)span["answer"]!))];
        Assert.All(recorded.Zip(answers), static pair =>
        {
            Assert.Equal((bool)pair.First!["exact"]!, pair.Second.IsExact);
            Assert.Equal((double)pair.First["f1"]!, pair.Second.F1, 1e-12);
        });
        var measured = new SpanMeasurement(answers);
        Assert.Equal(recorded.Count(static span => (bool)span!["exact"]!), measured.ExactMatch.Hits);
        Assert.Equal(recorded.Average(static span => (double)span!["f1"]!), measured.F1, 1e-12);
    }

    [Theory]
    [InlineData("LlamaForTokenClassification")]
    [InlineData("LlamaForQuestionAnswering")]
    public void Heads_for_words_and_spans_learn_what_they_are_then_measured_by(string head)
    {
        using var folder = new TemporaryFolder();
        var tokenizer = WordTokenizer.In(folder, "a b c d e f q r s t u v w x <end>");
        using var model = Headed(head, folder.Path);
        var isTagging = head.Contains("Token", StringComparison.Ordinal);
        var data = TrainingDataset.FromRows(isTagging
            ? [Tagged(["a", "b", "c", "d"], ["B-X", "I-X", "O", "B-Y"]), Tagged(["q", "a", "b"], ["O", "B-X", "I-X"]), Tagged(["d", "d"], ["B-Y", "B-Y"])]
            : [Asked("q", "a b c d", "b c"), Asked("r", "e f d c", "d c"), Asked("q", "u b c v w", "b c")]);
        object Measure() => isTagging ? TaggingMeasurement.Measure(model, data, batchSize: 2) : SpanMeasurement.Measure(model, data, batchSize: 2);
        double F1(object measured) => measured is TaggingMeasurement tagging ? tagging.F1 : ((SpanMeasurement)measured).F1;
        var before = F1(Measure());
        var options = new TrainingOptions { LearningRate = 2e-2, BatchSize = 3, MaxSteps = 80, Seed = 5, Objective = isTagging ? "token_classification" : "question_answering" };
        _ = new Trainer(TrainerTests.Request(model, options, data.Tokenize(tokenizer, TokenizationOptions.Of(options, model)))).Train();
        Assert.True(before < 0.9, $"{before}");
        Assert.Equal(1, F1(Measure()), 1e-9);
        Assert.Equal("ClassesMissing", Assert.Throws<PeftException>(() => { _ = isTagging ? (object)SpanMeasurement.Measure(model, data) : TaggingMeasurement.Measure(model, data); }).ErrorId);

        static Dictionary<string, object?> Tagged(object?[] words, object?[] tags) => new() { ["tokens"] = words, ["ner_tags"] = tags };
        static Dictionary<string, object?> Asked(string question, string context, string answer) => new() { ["question"] = question, ["context"] = context, ["answer"] = answer };
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

    private static string[] Texts(JsonNode? list) => [.. list!.AsArray().Select(static text => (string)text!)];

    /// <summary>A model with a head of random weights and an adapter that trains it; its tokenizer lies in a folder.</summary>
    private static PeftModel Headed(string head, string folder)
    {
        var network = ArchitectureRegistry.Create(ModelConfig.FromText($$$"""
            {
              "model_type": "llama", "architectures": ["{{{head}}}"], "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "pad_token_id": 14,
              "num_labels": 4, "id2label": {"0": "O", "1": "B-X", "2": "I-X", "3": "B-Y"}
            }
            """));
        using var noGradients = no_grad();
        using var generator = new Generator(2);
        foreach (var (_, parameter, _) in network.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            parameter.Assign(empty([.. parameter.Shape]).normal_(parameter.Shape.Count == 1 ? 1 : 0, 0.3, generator));
        }

        network.Fuse();
        var model = new PeftModel(network, "tiny", folder);
        model.AddAdapter(new LoraConfig { Rank = 4, Alpha = 8, TargetModules = ModuleNames.AllLinear }, "tuned", seed: 3);
        return model;
    }

    private sealed class OneRow(TokenRow row) : ITrainingData
    {
        public int Count => 1;

        public string Fingerprint => "row";

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) => Collator.Padded([row], 0, device);
    }
}
