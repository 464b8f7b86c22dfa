using System.IO.Compression;
using System.Text;
using Parquet.Serialization;
using Peft.Adapters.Asking;
using Peft.Adapters.Files;
using Peft.Hub;
using Peft.Images;
using Peft.Tests.Golden;
using Peft.Tests.Hub;
using Peft.Tests.Training;
using Peft.Tokenization;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Reports;

namespace Peft.Tests.Faults;

/// <summary>Random damage to packed rows, images, what a training leaves beside its adapter, and what a hub answers.</summary>
public sealed class DataFileFaultTests : IDisposable
{
    private const string Rows = """
        {"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"label":"x"}
        {"messages":[{"role":"user","content":"c"},{"role":"assistant","content":"d"}],"label":"y"}
        """;

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact, Fault]
    public async Task PackedRows()
    {
        var parquet = new MemoryStream();
        await ParquetSerializer.SerializeAsync(
            Enumerable.Range(0, 40).Select(static i => new ParquetRowsTests.Row { Id = i, Score = i / 2f, Messages = [new ParquetRowsTests.Turn { role = "user", content = $"a{i}" }], Tags = ["a", "b"] }),
            parquet,
            new Parquet.ParquetOptions { RowGroupSize = 20 });
        var packed = new MemoryStream();
        await using (var gzip = new GZipStream(packed, CompressionMode.Compress, leaveOpen: true))
        {
            gzip.Write(Encoding.UTF8.GetBytes(Rows));
        }

        using var zstandard = new ZstdSharp.Compressor();
        (string Name, byte[] Bytes)[] files =
        [
            ("rows.parquet", parquet.ToArray()),
            ("rows.jsonl.gz", packed.ToArray()),
            ("rows.jsonl.zst", zstandard.Wrap(Encoding.UTF8.GetBytes(Rows)).ToArray()),
            ("rows.csv", Encoding.Unicode.GetPreamble().Concat(Encoding.Unicode.GetBytes("prompt,completion\na,b\n")).ToArray()),
        ];
        var tokenizer = Tokenizer.FromFolder(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama"));
        FaultBudget.Run(random =>
        {
            var (name, bytes) = files[random.Next(files.Length)];
            var path = _folder.Write(name, Damage.Of(name, bytes, random));
            ReaderTrial.Bounded(() => TrainingDataset.ColumnsOf(path));
            ReaderTrial.Bounded(() => TrainingDataset.FromFile(path).Tokenize(tokenizer, new TokenizationOptions { MaxLength = 64 }));
            ReaderTrial.Bounded(() => TextFile.Read(path));
        });
    }

    [Fact, Fault]
    public void Images()
    {
        var image = new PixelImage(24, 16, [.. Enumerable.Range(0, 24 * 16 * 3).Select(static i => (byte)((i * 37) % 251))]);
        foreach (var extension in (string[])[".png", ".jpg", ".webp"])
        {
            ImageFile.Write(image, _folder["sound" + extension], new Dictionary<string, string> { ["parameters"] = "a bird\nSteps: 3", ["höher"] = "日本" });
        }

        var sound = Directory.GetFiles(_folder.Path, "sound.*").Order(StringComparer.Ordinal).ToArray();
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            var source = sound[random.Next(sound.Length)];
            var path = Path.Combine(folder, "a" + Path.GetExtension(source));
            File.WriteAllBytes(path, Damage.Apply(File.ReadAllBytes(source), random));
            File.WriteAllBytes(Path.Combine(folder, "metadata.jsonl"), JsonDamage.Apply(Encoding.UTF8.GetBytes($$"""{"file_name":"{{Path.GetFileName(path)}}","text":"a bird"}"""), random));
            ReaderTrial.Bounded(() => ImageFile.Read(path));
            ReaderTrial.Bounded(() => ImageFile.Size(path));
            ReaderTrial.Bounded(() => ImageFile.ReadTexts(path));
            ReaderTrial.Bounded(() => ImageFolder.Read(folder));
        }));
    }

    [Fact, Fault]
    public void WhatATrainingLeaves()
    {
        using (var model = TrainerTests.Model())
        {
            new Trainer(TrainerTests.Request(model, new TrainingOptions { MaxSteps = 3, BatchSize = 2, CheckpointInterval = 2 }) with { OutputPath = _folder["whole"] }).Train();
        }

        var whole = Directory.GetDirectories(_folder["whole"]).Single();
        new PromptForm { Template = new PromptTemplate("Q: {question}\nA:", null), SystemMessage = "s" }.Save(whole);
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            ReaderTrial.CopyDamaged(whole, folder, random, static path => Path.GetExtension(path) is ".json" or ".jsonl" && !path.Contains("checkpoints", StringComparison.Ordinal));
            ReaderTrial.Bounded(() => TrainingOptions.FromFile(Path.Combine(folder, TrainingOptions.FileName)).Validate());
            ReaderTrial.Bounded(() => PromptForm.Load(folder));
            ReaderTrial.Bounded(() => Provenance.Load(folder));
            ReaderTrial.Bounded(() =>
            {
                if (TrainingLog.Recall("a", null, folder) is { } record)
                {
                    TrainingReportPage.Html([(record, [])]);
                    _ = record.ToString();
                }
            });
        }));
    }

    [Fact, Fault]
    public void AnswersOfAHub()
    {
        using var hub = new LoopbackHub();
        hub.Files["config.json"] = "{}"u8.ToArray();
        hub.Files["sub/model.safetensors"] = [1, 2, 3];
        byte[]? listing = null;
        var current = Random.Shared;
        hub.Misbehave = request =>
        {
            if (!request.Path.StartsWith("/api/", StringComparison.Ordinal))
            {
                return null;
            }

            listing ??= hub.Usual(request).Body;
            return new HubReply(200) { Body = JsonDamage.Apply(listing, current) };
        };
        const string Card = "---\nconfigs:\n- config_name: a\n  data_dir: data\n  data_files:\n  - split: train\n    path: [\"a/*.jsonl\", b.jsonl]\n- data_files:\n    test: t.csv\n---\n# Text\n";
        HubFile[] files = [new HubFile("data/a/x.jsonl", 3, "h"), new HubFile("t.csv", 3, "h")];
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            current = random;
            ReaderTrial.Bounded(() => HubDownload.Run(new HubRepository("owner/name"), new HubDownloadOptions { Settings = hub.Settings(folder) }));
            ReaderTrial.Bounded(() => HubDatasetCard.PartsOf(Encoding.UTF8.GetString(Damage.Apply(Encoding.UTF8.GetBytes(Card), random)), files));
        }));
    }
}
