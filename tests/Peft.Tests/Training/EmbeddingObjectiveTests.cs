using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Objectives of text embeddings, held to their formulas over the model's own hidden states.</summary>
public class EmbeddingObjectiveTests
{
    private const int Pairs = 4;

    [Theory]
    [InlineData("multiple_negatives_ranking", "mean", "{}")]
    [InlineData("multiple_negatives_ranking", "cls", """{"scale":5,"symmetric":true}""")]
    [InlineData("multiple_negatives_ranking", "last", """{"scale":10}""")]
    [InlineData("cosine_similarity", "mean", "{}")]
    public void The_loss_is_the_formula_over_pooled_hidden_states(string objective, string pooling, string options)
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear }, "tuned", 3);
        var own = (JsonObject)JsonNode.Parse(options)!;
        var (scale, symmetric) = ((double?)own["scale"] ?? 20, (bool?)own["symmetric"] ?? false);
        own["pooling"] = pooling;
        var data = new RandomTexts();
        using var batch = (PairBatch)data.Collate([0, 1, 2, 3], CPU);
        float expected;
        using (no_grad())
        using (NewDisposeScope())
        {
            var pass = model.NewPass(batch.In(new ForwardContext()), AdapterSelection.Of("tuned"));
            var hidden = model.Base.Forward(batch.InputIds, pass).Hidden.view(2 * Pairs, batch.InputIds.size(1), -1);
            var vectors = stack([.. Enumerable.Range(0, 2 * Pairs).Select(row =>
            {
                var states = hidden[row].narrow(0, 0, data.Length(row));
                return pooling switch { "cls" => states[0], "last" => states[data.Length(row) - 1], _ => states.mean([0]) };
            })]);
            vectors = vectors.div(vectors.square().sum(1, keepdim: true).sqrt());
            var (first, second) = (vectors.narrow(0, 0, Pairs), vectors.narrow(0, Pairs, Pairs));
            var scores = first.mm(second.t()).mul(scale);
            var down = scores.diagonal().sub(scores.logsumexp(1)).mean().neg();
            var across = scores.diagonal().sub(scores.logsumexp(0)).mean().neg();
            expected = (objective == "cosine_similarity" ? first.mul(second).sum(1).sub(batch.Margins!).square().mean() : symmetric ? down.add(across).div(2) : down).item<float>();
        }

        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "tuned",
            Data = data,
            Options = new TrainingOptions { Objective = objective, ObjectiveOptions = own, BatchSize = Pairs, MaxSteps = 25, Sampling = "sequential", LearningRate = 2e-2 },
        }).Train();
        Assert.Equal(expected, record.Losses[0], 1e-4);
        Assert.True(record.FinalLoss < 0.7 * record.Losses[0], $"{record.Losses[0]} became {record.FinalLoss}");
        Assert.NotEmpty(record.Steps[0].Metrics!);
    }

    [Theory]
    [InlineData(false, true, 1.9751225709915161)]
    [InlineData(true, true, 1.208382487297058)]
    [InlineData(false, false, 0.37804245948791504)]
    public void Texts_that_rows_are_to_be_told_from_count_as_plain_torch_has_it(bool symmetric, bool hasNegatives, double recorded)
    {
        // tests/references/embedding_negatives.py
        using var model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { Task = "FEATURE_EXTRACTION", DataType = ScalarType.Float32 });
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear }, "tuned", 3);
        string[] rows =
        [
            """{"anchor":"What is the capital of Texas?","positive":"Austin is the capital of Texas.","negative":"Houston is the largest city of Texas."}""",
            """{"anchor":"Where does the sun rise?","positive":"The sun rises in the east.","negative":["The moon is far away.","The sun sets in the west."]}""",
            """{"anchor":"Who wrote it?","positive":"A friend of mine wrote the letter.","negative":null}""",
        ];
        using var folder = new TemporaryFolder();
        File.WriteAllLines(folder["rows.jsonl"], hasNegatives ? rows : rows.Select(static row => row[..row.IndexOf(",\"negative", StringComparison.Ordinal)] + "}"));
        var options = new TrainingOptions
        {
            Objective = "multiple_negatives_ranking",
            ObjectiveOptions = new JsonObject { ["symmetric"] = symmetric },
            BatchSize = 3,
            MaxSteps = 8,
            LearningRate = 1e-2,
            Sampling = "sequential",
        };
        var data = TrainingDataset.FromFile(folder["rows.jsonl"]).Tokenize(model.RequiredTokenizer, TokenizationOptions.Of(options, model));
        var record = new Trainer(new TrainingRequest { Model = model, AdapterName = "tuned", Data = data, Options = options }).Train();
        Assert.Equal(recorded, record.Losses[0], 2e-4);
        Assert.True(record.FinalLoss < 0.7 * record.Losses[0], $"{record.Losses[0]} became {record.FinalLoss}");
    }

    /// <summary>Texts of different lengths, padded behind.</summary>
    private sealed class RandomTexts : ITrainingData
    {
        public int Count => Pairs;

        public string Fingerprint => "texts";

        public ExampleKind ExampleKind => ExampleKind.Similar;

        public long Length(int row) => 3 + (row % 3);

        public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
        {
            int[] Ids(int row) => [.. Enumerable.Range(0, (int)Length(row)).Select(i => 3 + (((row * 11) + (i * 5)) % (TinyLlama.Vocabulary - 3)))];
            var batch = Collator.Padded([.. Enumerable.Range(0, 2 * Pairs).Select(Ids).Select(static ids => new TokenRow(ids, ids))], 0, device);
            return new PairBatch(batch.InputIds, batch.Labels)
            {
                AttentionMask = batch.AttentionMask,
                TokenCount = batch.TokenCount,
                TargetCount = batch.TargetCount,
                Margins = tensor([0.9f, -0.5f, 0.1f, 0.3f]),
            };
        }
    }
}
