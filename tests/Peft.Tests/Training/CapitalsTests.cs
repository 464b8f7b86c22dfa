using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Golden;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>The demonstration's recipe: a small model that knows next to nothing learns 50 capitals.</summary>
public class CapitalsTests(Xunit.Abstractions.ITestOutputHelper log)
{
    private static string Assets => Path.Combine(GoldenCases.Repository, "assets");

    [SkippableTheory]
    [InlineData(1, "capitals.jsonl")]
    [InlineData(2, "capitals.jsonl")]
    [InlineData(3, "capitals.jsonl")]
    [InlineData(1, "capitals-sentence.jsonl")]
    public void At_least_48_of_50_capitals_are_right_after_training(int seed, string file)
    {
        var data = Path.Combine(Assets, "data", file);
        Skip.IfNot(File.Exists(data), "The demonstration's data is not in the checkout.");
        using var model = PeftModel.Load(Path.Combine(Assets, "pocket-llama"), new LoadOptions { DataType = ScalarType.Float32 });
        model.AddAdapter(new LoraConfig { Rank = 16, Alpha = 32, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, "capitals", (ulong)seed);
        var rows = TrainingDataset.FromFile(data).Tokenize(model.Tokenizer!);
        Assert.True(CountRight(model, data) <= 3, "the model knew the answers before");
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "capitals",
            Data = rows,
            Options = new TrainingOptions { Epochs = 60, BatchSize = 10, LearningRate = 6e-3, Seed = seed },
        }).Train();
        var right = CountRight(model, data);
        log.WriteLine($"{right} of {rows.Count} right after {record.StepCount} steps in {record.Duration.TotalSeconds:F1} s, loss {record.FinalLoss:F4}");
        Assert.True(right >= 48, $"{right} of {rows.Count} right, final loss {record.FinalLoss}");
    }

    private static int CountRight(PeftModel model, string file)
    {
        using var noGrad = no_grad();
        var right = 0;
        foreach (var line in File.ReadLines(file))
        {
            var row = JsonNode.Parse(line)!;
            var answer = (string)row["completion"]!;
            var ids = model.Tokenizer!.Encode((string)row["prompt"]!).Ids.Select(id => (long)id).ToArray();
            var expected = model.Tokenizer.Encode(answer).Ids.Length;
            right += model.Tokenizer.Decode([.. Continue(model, ids, expected + 1)]).Trim() == answer.Trim() ? 1 : 0;
        }

        return right;
    }

    /// <summary>The most likely tokens up to the end of the text or to a number.</summary>
    private static List<int> Continue(PeftModel model, long[] prompt, int count)
    {
        var causal = (CausalModel)model.Base;
        using var cache = new ModelCache();
        var context = new ForwardContext { Cache = cache, Selection = model.CurrentSelection };
        List<int> tokens = [];
        var next = prompt;
        while (tokens.Count < count)
        {
            using var scope = NewDisposeScope();
            var output = causal.Forward(tensor(next).view(1, -1), context);
            var best = causal.Logits(output.LastPosition(), context).argmax().item<long>();
            if (best == model.Tokenizer!.EosTokenId)
            {
                break;
            }

            tokens.Add((int)best);
            next = [best];
        }

        return tokens;
    }
}
