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

namespace Peft.Tests.Faults;

/// <summary>Random damage to files of tensors, tokenizers, configurations, adapters, checkpoints and rows of text.</summary>
public sealed class ReaderFaultTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact, Fault]
    public void Pickles() => EachFile(ReaderTrial.Files("*.bin", "*.pt"), path =>
    {
        using var store = TensorStore.OpenFile(path);
        foreach (var name in store.Names)
        {
            store.Read(name).Dispose();
        }
    });

    [Fact, Fault]
    public void GgufFiles() => EachFile(ReaderTrial.Files("*.gguf"), path =>
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
        var folders = ReaderTrial.Files("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "merges.txt").Select(path => Path.GetDirectoryName(path)!).Distinct().ToArray();
        if (folders.Length == 0)
        {
            return;
        }

        FaultBudget.Run(random =>
        {
            var source = folders[random.Next(folders.Length)];
            var files = Directory.GetFiles(source).Where(path => Path.GetFileName(path) != "case.json" && new FileInfo(path).Length < ReaderTrial.LargestFile).ToArray();
            var damaged = files[random.Next(files.Length)];
            ReaderTrial.InFolder(_folder, folder =>
            {
                foreach (var file in files)
                {
                    var bytes = File.ReadAllBytes(file);
                    File.WriteAllBytes(Path.Combine(folder, Path.GetFileName(file)), file == damaged ? Damage.Of(file, bytes, random) : bytes);
                }

                ReaderTrial.Bounded(() => Use(Tokenizer.FromFolder(folder)));
            });
        });
    }

    [Fact, Fault]
    public void ModelConfigurations()
    {
        var files = ReaderTrial.Files("config.json").ToArray();
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            var source = files[random.Next(files.Length)];
            File.WriteAllBytes(Path.Combine(folder, "config.json"), JsonDamage.Apply(File.ReadAllBytes(source), random));
            var generation = Path.Combine(Path.GetDirectoryName(source)!, "generation_config.json");
            if (File.Exists(generation))
            {
                File.WriteAllBytes(Path.Combine(folder, "generation_config.json"), JsonDamage.Apply(File.ReadAllBytes(generation), random));
            }

            ReaderTrial.Bounded(() => ModelLoader.Load(folder, new LoadOptions { StructureOnly = true }).Dispose());
            var weights = Path.Combine(Path.GetDirectoryName(source)!, "model.safetensors");
            if (File.Exists(weights) && new FileInfo(weights).Length < 4 * ReaderTrial.LargestFile)
            {
                File.Copy(weights, Path.Combine(folder, "model.safetensors"));
                ReaderTrial.Bounded(() => ModelLoader.Load(folder).Dispose());
            }
        }));
    }

    [Fact, Fault]
    public void AdapterFolders()
    {
        using var made = TinyLlama.Create();
        made.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear, ModulesToSave = ["norm"] }, "a", 1);
        made.SaveAdapter("a", _folder["adapter"]);
        var configurations = ReaderTrial.Files(AdapterConfig.FileName).Prepend(Path.Combine(_folder["adapter"], AdapterConfig.FileName)).ToArray();
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            using var model = TinyLlama.Create();
            var source = random.Next(2) == 0 ? configurations[0] : configurations[random.Next(configurations.Length)];
            foreach (var file in Directory.GetFiles(Path.GetDirectoryName(source)!).Where(path => new FileInfo(path).Length < ReaderTrial.LargestFile))
            {
                var bytes = File.ReadAllBytes(file);
                var name = Path.GetFileName(file);
                File.WriteAllBytes(Path.Combine(folder, name), name == AdapterConfig.FileName || random.Next(4) == 0 ? Damage.Of(file, bytes, random) : bytes);
            }

            ReaderTrial.Bounded(() => model.LoadAdapter(folder, "b"));
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
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            foreach (var file in files)
            {
                var target = Path.Combine(folder, Path.GetRelativePath(_folder["whole"], file));
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                var bytes = File.ReadAllBytes(file);
                File.WriteAllBytes(target, random.Next(files.Length) < 2 ? Damage.Of(file, bytes, random) : bytes);
            }

            using var model = TrainerTests.Model();
            ReaderTrial.Bounded(() => new Trainer(TrainerTests.Request(model, options with { MaxSteps = 3 }) with { OutputPath = folder, Resume = true }).Train());
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
            ReaderTrial.Bounded(() => TrainingDataset.FromFile(path).Tokenize(tokenizer, new TokenizationOptions { MaxLength = 64 }));
        });
    }

    [Fact, Fault]
    public void ChatTemplates()
    {
        var sources = ReaderTrial.Files("*.jinja").Append(Path.Combine(GoldenCases.Repository, "assets", "pocket-llama", "chat_template.jinja")).Select(File.ReadAllBytes).ToArray();
        ChatMessage[] messages = [new("system", "s"), new("user", "a"), new("assistant", "b"), new("user", "c")];
        FaultBudget.Run(random =>
        {
            var template = Encoding.UTF8.GetString(Damage.Apply(sources[random.Next(sources.Length)], random));
            ReaderTrial.Bounded(() => ChatTemplate.Parse(template).Render(messages, new ChatTemplateOptions { AddGenerationPrompt = true }, new Dictionary<string, string> { ["bos_token"] = "<s>", ["eos_token"] = "</s>" }));
        });
    }

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
            var path = _folder.Write("damaged" + Path.GetExtension(source), Damage.Of(source, File.ReadAllBytes(source), random));
            ReaderTrial.Bounded(() => read(path));
        });
    }
}
