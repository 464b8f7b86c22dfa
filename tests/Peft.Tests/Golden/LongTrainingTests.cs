using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>
/// A training of hundreds of steps of a real model, each step's loss within 0.02 of the peer's. Runs where <c>PEFT_LONG_TRAINING</c> names the folder that
/// <c>tests/references/long_training.py</c> wrote.
/// </summary>
public class LongTrainingTests(Xunit.Abstractions.ITestOutputHelper log)
{
    private static readonly string? s_folder = Environment.GetEnvironmentVariable("PEFT_LONG_TRAINING");

    [SkippableFact]
    public void Each_of_many_steps_has_the_peers_loss()
    {
        Skip.If(s_folder is null, "PEFT_LONG_TRAINING names no folder of tests/references/long_training.py.");
        var recorded = JsonNode.Parse(File.ReadAllText(Path.Combine(s_folder, "losses.json")))!;
        double[] expected = [.. recorded["losses"]!.AsArray().Select(static loss => (double)loss!)];
        using var model = PeftModel.Load(Path.Combine(s_folder, "model"), new LoadOptions { DataType = ScalarType.Float32 });
        model.LoadAdapter(Path.Combine(s_folder, "adapter"), "default");
        var rows = JsonNode.Parse(File.ReadAllText(Path.Combine(s_folder, "rows.json")))!.AsArray().Select(static row => row!.AsArray().Select(static id => (int)id!).ToArray());
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = new Rows([.. rows]),
            Options = new TrainingOptions { LearningRate = (double)recorded["learning_rate"]!, MaxSteps = expected.Length, BatchSize = 1, Sampling = "sequential" },
        }).Train();
        var differences = record.Losses.Zip(expected, static (ours, theirs) => Math.Abs(ours - theirs)).ToArray();
        log.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{expected.Length} steps, loss {record.Losses[0]:F4} to {record.FinalLoss:F4}: the largest difference is {differences.Max():E2} in step {Array.IndexOf(differences, differences.Max()) + 1}; {record.TokensPerSecond:F0} tokens/s"));
        Assert.All(differences, static difference => Assert.InRange(difference, 0, 0.02));
    }

    private sealed class Rows(IReadOnlyList<int[]> rows) : ITrainingData
    {
        public int Count => rows.Count;

        public string Fingerprint => "rows";

        public TrainingBatch Collate(IReadOnlyList<int> chosen, Device device) => Collator.Padded([.. chosen.Select(row => new TokenRow(rows[row], rows[row]))], 0, device);
    }
}
