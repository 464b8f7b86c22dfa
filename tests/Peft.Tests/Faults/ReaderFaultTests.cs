using System.Text;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Training;
using Peft.Tokenization;
using Peft.Tokenization.ChatTemplates;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;

namespace Peft.Tests.Faults;

/// <summary>Random damage to what every reader reads: each trial works, or ends in an error of ours, in bounded memory.</summary>
public sealed class ReaderFaultTests : IDisposable
{
    private const long MostBytes = 3L << 30;
    private const long LargestFile = 1 << 20;
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact, Fault]
    public void Pickles() => EachFile(Files("*.bin", "*.pt"), path =>
    {
        using var store = TensorStore.OpenFile(path);
        foreach (var name in store.Names)
        {
            store.Read(name).Dispose();
        }
    });

    [Fact, Fault]
    public void GgufFiles() => EachFile(Files("*.gguf"), path =>
    {
        using var file = GgufFile.Open(path);
        foreach (var name in file.Names)
        {
            file.Read(name).Dispose();
        }

        Use(Tokenizer.FromGguf(file.Metadata));
        ModelLoader.Load(path).Dispose();
    });

    [Fact, Fault]
    public void TokenizerFolders()
    {
        var folders = Files("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "merges.txt").Select(path => Path.GetDirectoryName(path)!).Distinct().ToArray();
        if (folders.Length == 0)
        {
            return;
        }

        FaultBudget.Run(random =>
        {
            var source = folders[random.Next(folders.Length)];
            var files = Directory.GetFiles(source).Where(path => Path.GetFileName(path) != "case.json" && new FileInfo(path).Length < LargestFile).ToArray();
            var damaged = files[random.Next(files.Length)];
            InFolder(folder =>
            {
                foreach (var file in files)
                {
                    var bytes = File.ReadAllBytes(file);
                    File.WriteAllBytes(Path.Combine(folder, Path.GetFileName(file)), file == damaged ? Damaged(file, bytes, random) : bytes);
                }

                Bounded(() => Use(Tokenizer.FromFolder(folder)));
            });
        });
    }

    [Fact, Fault]
    public void ModelConfigurations()
    {
        var files = Files("config.json").ToArray();
        FaultBudget.Run(random => InFolder(folder =>
        {
            var source = files[random.Next(files.Length)];
            File.WriteAllBytes(Path.Combine(folder, "config.json"), JsonDamage.Apply(File.ReadAllBytes(source), random));
            var generation = Path.Combine(Path.GetDirectoryName(source)!, "generation_config.json");
            if (File.Exists(generation))
            {
                File.WriteAllBytes(Path.Combine(folder, "generation_config.json"), JsonDamage.Apply(File.ReadAllBytes(generation), random));
            }

            Bounded(() => ModelLoader.Load(folder, new LoadOptions { StructureOnly = true }).Dispose());
            var weights = Path.Combine(Path.GetDirectoryName(source)!, "model.safetensors");
            if (File.Exists(weights) && new FileInfo(weights).Length < 4 * LargestFile)
            {
                File.Copy(weights, Path.Combine(folder, "model.safetensors"));
                Bounded(() => ModelLoader.Load(folder).Dispose());
            }
        }));
    }

    [Fact, Fault]
    public void AdapterFolders()
    {
        using var made = TinyLlama.Create();
        made.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear, ModulesToSave = ["norm"] }, "a", 1);
        made.SaveAdapter("a", _folder["adapter"]);
        var configurations = Files(AdapterConfig.FileName).Prepend(Path.Combine(_folder["adapter"], AdapterConfig.FileName)).ToArray();
        FaultBudget.Run(random => InFolder(folder =>
        {
            using var model = TinyLlama.Create();
            var source = random.Next(2) == 0 ? configurations[0] : configurations[random.Next(configurations.Length)];
            foreach (var file in Directory.GetFiles(Path.GetDirectoryName(source)!).Where(path => new FileInfo(path).Length < LargestFile))
            {
                var bytes = File.ReadAllBytes(file);
                var name = Path.GetFileName(file);
                File.WriteAllBytes(Path.Combine(folder, name), name == AdapterConfig.FileName || random.Next(4) == 0 ? Damaged(file, bytes, random) : bytes);
            }

            Bounded(() => model.LoadAdapter(folder, "b"));
        }));
    }

    [Fact, Fault]
    public void Checkpoints()
    {
        var options = new TrainingOptions { MaxSteps = 2, BatchSize = 2, CheckpointInterval = 1, CheckpointLimit = 2 };
        using (var model = TrainerTests.Model())
        {
            new Trainer(TrainerTests.Request(model, options) with { OutputPath = _folder["whole"] }).Train();
        }

        var files = Directory.GetFiles(_folder["whole"], "*", SearchOption.AllDirectories);
        FaultBudget.Run(random => InFolder(folder =>
        {
            foreach (var file in files)
            {
                var target = Path.Combine(folder, Path.GetRelativePath(_folder["whole"], file));
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                var bytes = File.ReadAllBytes(file);
                File.WriteAllBytes(target, random.Next(files.Length) < 2 ? Damaged(file, bytes, random) : bytes);
            }

            using var model = TrainerTests.Model();
            Bounded(() => new Trainer(TrainerTests.Request(model, options with { MaxSteps = 3 }) with { OutputPath = folder, Resume = true }).Train());
        }));
    }

    [Fact, Fault]
    public void DataRows()
    {
        (string Name, string Content)[] files =
        [
            ("rows.jsonl", """
                {"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}
                {"messages":[{"role":"user","content":"c"},{"role":"assistant","content":[{"type":"text","text":"d"}]}]}
                """),
            ("rows.jsonl", """{"prompt":"a","completion":"b"}"""),
            ("rows.json", """{"data":[{"instruction":"a","input":"b","output":"c"},{"instruction":"a","output":"c"}]}"""),
            ("rows.csv", "prompt,completion\n\"a, \"\"b\"\"\",c\nd,e\n"),
            ("rows.tsv", "text\tother\na\tb\n"),
            ("rows.txt", "one\ntwo\n"),
        ];
        var tokenizer = Tokenizer.FromFolder(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama"));
        FaultBudget.Run(random =>
        {
            var (name, content) = files[random.Next(files.Length)];
            var bytes = Encoding.UTF8.GetBytes(content);
            var path = _folder.Write(name, name == "rows.json" || !content.Contains('\n', StringComparison.Ordinal) ? JsonDamage.Apply(bytes, random) : Damage.Apply(bytes, random));
            Bounded(() => TrainingDataset.FromFile(path).Tokenize(tokenizer, new TokenizationOptions { MaxLength = 64 }));
        });
    }

    [Fact, Fault]
    public void ChatTemplates()
    {
        var sources = Files("*.jinja").Append(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama", "chat_template.jinja")).Select(File.ReadAllBytes).ToArray();
        ChatMessage[] messages = [new("system", "s"), new("user", "a"), new("assistant", "b"), new("user", "c")];
        FaultBudget.Run(random =>
        {
            var template = Encoding.UTF8.GetString(Damage.Apply(sources[random.Next(sources.Length)], random));
            Bounded(() => ChatTemplate.Parse(template).Render(messages, new ChatTemplateOptions { AddGenerationPrompt = true }, new Dictionary<string, string> { ["bos_token"] = "<s>", ["eos_token"] = "</s>" }));
        });
    }

    private static byte[] Damaged(string file, byte[] bytes, Random random) => file.EndsWith(".json", StringComparison.Ordinal) ? JsonDamage.Apply(bytes, random) : Damage.Apply(bytes, random);

    private static IEnumerable<string> Files(params string[] patterns) => patterns
        .SelectMany(static pattern => Directory.EnumerateFiles(GoldenCases.Root, pattern, SearchOption.AllDirectories))
        .Where(static path => new FileInfo(path).Length is > 0 and < LargestFile).Order(StringComparer.Ordinal);

    private static void Use(Tokenizer tokenizer)
    {
        var ids = tokenizer.EncodeIds("Hello, wörld! 12\n  <s>👍");
        tokenizer.Decode(ids);
        if (tokenizer.HasChatTemplate)
        {
            tokenizer.ApplyChatTemplate([new("user", "Hi")], addGenerationPrompt: true);
        }
    }

    private void EachFile(IEnumerable<string> sources, Action<string> read)
    {
        var files = sources.ToArray();
        if (files.Length == 0)
        {
            return;
        }

        FaultBudget.Run(random =>
        {
            var source = files[random.Next(files.Length)];
            var path = _folder.Write("damaged" + Path.GetExtension(source), Damage.Apply(File.ReadAllBytes(source), random));
            Bounded(() => read(path));
        });
    }

    private void InFolder(Action<string> trial)
    {
        var folder = Directory.CreateDirectory(_folder["trial-" + Guid.NewGuid().ToString("N")]).FullName;
        trial(folder);
        Directory.Delete(folder, recursive: true);
    }

    private static void Bounded(Action trial)
    {
        var before = GC.GetTotalAllocatedBytes();
        using (torch.NewDisposeScope())
        {
            try
            {
                trial();
            }
            catch (PeftException)
            {
                // Refused, as it should be.
            }
        }

        Assert.InRange(GC.GetTotalAllocatedBytes() - before, 0, MostBytes);
    }
}
