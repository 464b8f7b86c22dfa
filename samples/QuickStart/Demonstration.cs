using System.Diagnostics;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Generation;
using Peft.Models;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;

namespace Peft.Samples.QuickStart;

/// <summary>The module's main job on real input, step by step; fails when an adapter does not learn what it was taught.</summary>
internal sealed class Demonstration
{
    private const int RightAnswersWanted = 48;
    private static readonly GenerationOptions s_answer = new() { MaxNewTokens = 24, StopStrings = ["\n"] };

    private readonly string _root;
    private readonly string _output;
    private readonly Stopwatch _clock = Stopwatch.StartNew();

    public Demonstration(string root, string? output)
    {
        _root = root;
        _output = output ?? Path.Combine(root, "artifacts", "demo");
    }

    /// <summary>Runs it all; false when something was not learnt or does not agree.</summary>
    public bool Run()
    {
        using var model = PeftModel.Load(Path.Combine(_root, "assets", "pocket-llama"), new LoadOptions { DataType = torch.ScalarType.Float32 });
        Title($"{model.Name}: {model.Base.ClassName}, {model.Base.CountParameters():N0} parameters");
        ListModules(model);
        var questions = Rows("capitals.jsonl");
        Title("Three questions to the base model");
        Ask(model, questions, count: 3);

        var right = Train(model, "capitals", "capitals.jsonl");
        Title("The same questions with the adapter 'capitals'");
        Ask(model, questions, count: 3);
        right &= Grade(model, "capitals", questions);

        right &= Train(model, "sentences", "capitals-sentence.jsonl");
        right &= Grade(model, "sentences", Rows("capitals-sentence.jsonl"));

        Title("Switching between the two");
        foreach (var name in (string[])["capitals", "sentences"])
        {
            model.SetActive(name);
            Console.WriteLine($"  {name,-10} {Answer(model, questions[0].Prompt).Trim()}");
        }

        return right & MergeAndSave(model, questions);
    }

    private static void ListModules(PeftModel model)
    {
        var linear = model.Base.Descendants().Where(static module => module.ClassName == "Linear").GroupBy(static module => module.Name);
        Console.WriteLine("  what an adapter can attach to:");
        foreach (var group in linear)
        {
            Console.WriteLine($"  {group.Count(),3} x {group.Key,-10} {string.Join(" x ", group.First().Parameters[0].Shape)}");
        }
    }

    private bool Train(PeftModel model, string name, string file)
    {
        Title($"Training the adapter '{name}' on {file}");
        model.AddAdapter(new LoraConfig { Rank = 16, Alpha = 32, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" }, name, seed: 0);
        var dataset = TrainingDataset.FromFile(DataFile(file));
        var request = new TrainingRequest
        {
            Model = model,
            AdapterName = name,
            Data = dataset.Tokenize(model.RequiredTokenizer),
            Options = new TrainingOptions { Epochs = 60, BatchSize = 10, LearningRate = 6e-3 },
            OutputPath = _output,
            Force = true,
            Progress = new ConsoleProgress(),
        };
        var record = new Trainer(request).Train();
        Console.WriteLine(
            $"  {record.StepCount} steps in {record.Duration.TotalSeconds:F0} s, {record.TokensPerSecond:N0} tokens/s, loss {record.Losses[0]:F2} -> {record.FinalLoss:F4}; "
            + $"{record.TrainedParameters:N0} parameters trained; {record.MaskedShare:P0} of the tokens carry no loss (the questions)");
        return double.IsFinite(record.FinalLoss);
    }

    private static bool Grade(PeftModel model, string name, IReadOnlyList<(string Prompt, string Completion)> rows)
    {
        var answers = new TextGenerator(model).Generate([.. rows.Select(static row => row.Prompt)], s_answer);
        var right = rows.Where((row, i) => answers[i].Text.Trim() == row.Completion.Trim()).Count();
        Console.WriteLine($"  '{name}' gets {right} of {rows.Count} right");
        return right >= RightAnswersWanted;
    }

    private bool MergeAndSave(PeftModel model, IReadOnlyList<(string Prompt, string Completion)> questions)
    {
        Title("Merging 'capitals' into the weights");
        model.SetActive("capitals");
        var before = NextScores(model, questions[0].Prompt);
        model.Merge(["capitals"], new MergeOptions { Safe = true, Unload = true });
        var difference = Largest(before, NextScores(model, questions[0].Prompt));
        Console.WriteLine($"  largest difference between adapted and merged scores: {difference:0.0E-0}");
        var folder = Path.Combine(_output, "merged");
        model.Save(folder);

        using var again = PeftModel.Load(folder);
        var reloaded = Largest(before, NextScores(again, questions[0].Prompt));
        Console.WriteLine($"  loaded again from disk:                               {reloaded:0.0E-0}");
        Console.WriteLine($"  {questions[0].Prompt.Replace("\n", " ", StringComparison.Ordinal)}{Answer(again, questions[0].Prompt)}");
        Title($"Written, in {_clock.Elapsed.TotalSeconds:F0} seconds in all");
        foreach (var path in (string[])["capitals", "sentences", "merged"])
        {
            Console.WriteLine($"  {Path.GetRelativePath(_root, Path.Combine(_output, path))}/");
        }

        return difference < 1e-3 && reloaded < 1e-3;
    }

    private static void Ask(PeftModel model, IReadOnlyList<(string Prompt, string Completion)> questions, int count)
    {
        foreach (var (prompt, _) in questions.Take(count))
        {
            Console.WriteLine($"  {prompt.Replace("\n", " ", StringComparison.Ordinal)}{Answer(model, prompt)}");
        }
    }

    private static string Answer(PeftModel model, string prompt) => new TextGenerator(model).Generate([prompt], s_answer)[0].Text;

    /// <summary>The scores of the token after a prompt: what merging must not change.</summary>
    private static float[] NextScores(PeftModel model, string prompt)
    {
        using var scores = OutputComparison.NextScores(model, prompt, model.CurrentSelection);
        return scores.data<float>().ToArray();
    }

    private static double Largest(float[] a, float[] b) => a.Zip(b, static (x, y) => (double)Math.Abs(x - y)).Max();

    private string DataFile(string name) => Path.Combine(_root, "assets", "data", name);

    private (string Prompt, string Completion)[] Rows(string file) =>
        [.. File.ReadLines(DataFile(file)).Select(static line => System.Text.Json.JsonDocument.Parse(line).RootElement)
            .Select(static row => (row.GetProperty("prompt").GetString()!, row.GetProperty("completion").GetString()!))];

    private static void Title(string text) => Console.WriteLine($"\n{text}");
}

/// <summary>One line that is written over on a terminal, a plain line now and then where output goes to a file.</summary>
internal sealed class ConsoleProgress : IProgress<TrainingProgress>
{
    private const int PlainInterval = 100;

    public void Report(TrainingProgress value)
    {
        var text = $"  step {value.Step,3}/{value.TotalSteps}  loss {value.Loss:F4}  {value.TokensPerSecond,6:N0} tokens/s  {value.Remaining.TotalSeconds,3:F0} s left";
        if (!Console.IsOutputRedirected)
        {
            Console.Write(value.Step == value.TotalSteps ? $"\r{text}\n" : $"\r{text}");
        }
        else if (value.Step % PlainInterval == 0)
        {
            Console.WriteLine(text);
        }
    }
}
