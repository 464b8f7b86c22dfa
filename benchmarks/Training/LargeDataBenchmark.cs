using System.Diagnostics;
using System.Globalization;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Training;
using Peft.Training.Data;

namespace Peft.Benchmarks.Training;

/// <summary>A training on more JSONL than should be in memory: how fast rows become tokens on the disk, and what memory the data takes.</summary>
internal static class LargeDataBenchmark
{
    /// <summary>The job on so many bytes.</summary>
    public static Benchmark Job(string name, long bytes) => new($"data-{name}", "MB/s to tokens", () => Measure(bytes), PeerArguments: null);

    private static BenchmarkFigure Measure(long bytes)
    {
        var folder = Directory.CreateDirectory(Path.Combine(RepositoryRoot.Folder, "artifacts", "large-data")).FullName;
        Environment.SetEnvironmentVariable("PEFT_CACHE", folder);
        var path = Path.Combine(folder, "rows.jsonl");
        try
        {
            using var model = PeftModel.Load(Path.Combine(RepositoryRoot.Folder, "assets", "pocket-llama"));
            model.AddAdapter(new LoraConfig { Rank = 8, TargetModules = ModuleNames.AllLinear, TaskType = "CAUSAL_LM" });
            Write(path, 1 << 20);
            Train(model, path);
            var small = Peak();
            Write(path, bytes);
            var clock = Stopwatch.StartNew();
            var count = Train(model, path, () => clock.Stop());
            return new BenchmarkFigure(bytes / 1e6 / clock.Elapsed.TotalSeconds, Note: FormattableString.Invariant(
                $"{count:N0} rows of {bytes / 1e6:N0} MB; {(Peak() - small) / 1e6:N0} MB more memory than the same training takes on 1 MB; first step after {clock.Elapsed.TotalSeconds:N0} s"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static int Train(PeftModel model, string path, Action? onStart = null)
    {
        var options = new TrainingOptions { MaxSteps = 20, BatchSize = 4, MaxLength = 128 };
        var data = TrainingDataset.FromFile(path, new DatasetOptions { Streaming = true }).Tokenize(model.RequiredTokenizer, TokenizationOptions.Of(options, model));
        new Trainer(new TrainingRequest { Model = model, AdapterName = "default", Data = data, Options = options, OnStart = _ => onStart?.Invoke() }).Train();
        return data.Count;
    }

    /// <summary>Rows of some hundred bytes, no two alike.</summary>
    private static void Write(string path, long bytes)
    {
        using var file = new StreamWriter(path);
        for (long row = 0, written = 0; written < bytes; row++)
        {
            var line = string.Create(CultureInfo.InvariantCulture, $"{{\"prompt\":\"Question: What stands on page {row} of book {row % 977}, and who wrote of the river that runs past house {row * 31 % 7919}?\\nAnswer:\",\"completion\":\" On page {row} stands the story of the miller and his {row % 89} geese, told by the night watchman of the {row % 53}th district, who never saw the river himself but heard of it from his aunt, in the winter of {1600 + (row % 400)}.\"}}");
            file.WriteLine(line);
            written += line.Length + 1;
        }
    }

    private static long Peak() => new BenchmarkFigure(0).PeakBytes;
}
