using System.Diagnostics;
using System.Formats.Tar;
using System.IO.Compression;
using System.Text;
using Peft.Tokenization;

namespace Peft.Benchmarks.Tokenizers;

/// <summary>
/// Encodes 10 MB of text, made of the repository's own sources and data, line by line on one thread, with ids, offsets and masks, beside
/// the peer's tokenizers.
/// </summary>
internal static class TokenizerBenchmark
{
    private const int TextBytes = 10_000_000;

    /// <summary>One job for each kind of model.</summary>
    public static IReadOnlyList<Benchmark> Jobs() =>
    [
        Job("byte-bpe", LargeVocabulary()),
        Job("sentencepiece-bpe", Kind("llama2")),
        Job("unigram", Kind("t5")),
        Job("wordpiece", Kind("bert_uncased")),
    ];

    private static string Work => Path.Combine(RepositoryRoot.Folder, "artifacts", "bench");

    private static string TextPath => Path.Combine(Work, "text-10mb.txt");

    private static Benchmark Job(string name, string tokenizer) => new(
        "tokenizers-" + name, "MB/s", () => Measure(tokenizer), ["tokenize", "--tokenizer", tokenizer, "--text", TextPath], "bytes_per_second", UnitSize: 1e6);

    private static BenchmarkFigure Measure(string path)
    {
        Prepare();
        var tokenizer = Tokenizer.FromFile(path);
        var text = File.ReadAllText(TextPath);
        var lines = text.Split('\n').Where(line => line.Length > 0).ToArray();
        var (seconds, tokens, allocated) = (double.MaxValue, 0L, 0L);
        for (var i = 0; i < 3; i++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            var clock = Stopwatch.StartNew();
            tokens = lines.Sum(line => (long)tokenizer.Encode(line).Count);
            seconds = Math.Min(seconds, clock.Elapsed.TotalSeconds);
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        }

        return new BenchmarkFigure(Encoding.UTF8.GetByteCount(text) / seconds, Note: $"{tokens} tokens, {allocated / (double)tokens:F0} bytes allocated a token");
    }

    /// <summary>SmolLM2's tokenizer where it lies beside the checkout, else the embedded model's.</summary>
    private static string LargeVocabulary()
    {
        var large = Path.Combine(RepositoryRoot.Folder, "..", "shared", "models", "smollm2-135m-instruct-gguf", "tokenizer.json");
        return File.Exists(large) ? Path.GetFullPath(large) : Path.Combine(RepositoryRoot.Folder, "assets", "pocket-llama", "tokenizer.json");
    }

    private static string Kind(string name) => Path.Combine(Work, "tokenizers", "kinds", name, "tokenizer.json");

    /// <summary>Unpacks the tokenizers and writes the text, once.</summary>
    private static void Prepare()
    {
        Directory.CreateDirectory(Work);
        if (!Directory.Exists(Path.Combine(Work, "tokenizers")))
        {
            using var archive = new GZipStream(File.OpenRead(Path.Combine(RepositoryRoot.Folder, "tests", "golden", "tokenizers.tar.gz")), CompressionMode.Decompress);
            TarFile.ExtractToDirectory(archive, Work, overwriteFiles: true);
        }

        if (File.Exists(TextPath))
        {
            return;
        }

        var files = new[] { "src", "docs", "tests/golden/generate", "assets/data" }
            .Select(folder => Path.Combine(RepositoryRoot.Folder, folder))
            .Where(Directory.Exists)
            .SelectMany(folder => Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories))
            .Where(file => Path.GetExtension(file) is ".cs" or ".md" or ".py" or ".jsonl" && !file.Contains("/obj/", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal);
        var text = new StringBuilder();
        foreach (var file in files)
        {
            text.Append(File.ReadAllText(file)).Append('\n');
        }

        var once = text.ToString();
        while (Encoding.UTF8.GetByteCount(once) * (long)text.Length / once.Length < TextBytes)
        {
            text.Append(once);
        }

        File.WriteAllText(TextPath, text.ToString(0, Math.Min(text.Length, TextBytes)));
    }
}
