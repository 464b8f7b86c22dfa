using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Tests.Faults;

/// <summary>Saves over an older save that end at each of their steps: by a kill, by a full disk, by a disk that fails.</summary>
public sealed class SaveFaultTests : IDisposable
{
    private const int DiskIsFull = 28;
    private const int Old = 3;
    private const int New = 5;
    private static readonly string[] s_kinds = ["adapter", "model", "export", "merge"];
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [SkippableFact, Fault]
    public void ASaveThatIsKilledAtAnyStepLeavesTheOldOrTheNewWhole() =>
        FaultBudget.Run(s_kinds.Append("file").SelectMany(kind => Enumerable.Range(1, CountSteps(kind)).Select(step => (kind, step))), trial =>
        {
            var place = Place();
            Save(trial.kind, place, Old);
            Assert.False(ChildProcess.Run(["save", trial.kind, place, $"{New}"], trial.step).Ended);
            Assert.Contains(Read(trial.kind, place), (int[])[Old, New]);
            Save(trial.kind, place, Old);
            Assert.Equal(Old, Read(trial.kind, place));
            Assert.Empty(Directory.GetFileSystemEntries(place, ".peft-save-*"));
            Assert.Single(Directory.GetFiles(place, "*model.safetensors*"));
        });

    [SkippableFact, Fault]
    public void SavesOfSeveralProcessesIntoAFolderAtOnceLeaveOneOfThemWhole() => FaultBudget.Run(random =>
    {
        var kind = s_kinds[random.Next(s_kinds.Length)];
        var place = Place();
        Save(kind, place, Old);
        (bool Ended, string Errors)[] saves = [.. new[] { New, New + 1, New + 2 }.AsParallel().WithDegreeOfParallelism(3).Select(seed => ChildProcess.Run(["save", kind, place, $"{seed}"]))];
        Assert.All(saves, static save => Assert.True(save.Ended, save.Errors));
        Assert.Contains(Read(kind, place), (int[])[New, New + 1, New + 2]);
        Assert.Empty(Directory.GetFileSystemEntries(place, ".peft-*"));
        Assert.Single(Directory.GetFiles(place, "*model.safetensors*"));
    });

    [Theory]
    [InlineData("adapter")]
    [InlineData("model")]
    [InlineData("export")]
    public void ASaveWhoseDiskFailsAtAnyStepLeavesTheOldWholeAndSaysSo(string kind)
    {
        for (var step = CountSteps(kind); step > 0; step--)
        {
            var place = Place();
            Save(kind, place, Old);
            var error = FailAt(step, () => Save(kind, place, New));
            Assert.Equal(error is null ? New : Old, Read(kind, place));
            Assert.True(error is null or { ErrorId: "DiskFull" }, $"{step}: {error}");
            Assert.True(error is not null || step > CountSteps(kind) - 2, "Only tidying up may fail without an error.");
        }
    }

    [SkippableFact]
    public void ADiskThatCannotKeepWhatWasWrittenIsAnError()
    {
        Skip.IfNot(OperatingSystem.IsLinux() && File.Exists("/usr/bin/cc"), "There is no C compiler to make a failing fsync with.");
        var source = _folder.Write("fails.c", "#include <errno.h>\nint fsync(int file) { errno = EIO; return -1; }\n");
        System.Diagnostics.Process.Start("/usr/bin/cc", ["-shared", "-fPIC", "-o", _folder["fails.so"], source]).WaitForExit();
        var place = Place();
        Save("adapter", place, Old);
        var (ended, errors) = ChildProcess.Run(["save", "adapter", place, $"{New}"], preload: _folder["fails.so"]);
        Assert.False(ended);
        Assert.Contains("could not be put on the disk", errors, StringComparison.Ordinal);
        Assert.Equal(Old, Read("adapter", place));
    }

    [Fact]
    public void PartsOfTwoSavesAreNotRead()
    {
        foreach (var (kind, part) in new[] { ("adapter", "adapter_model.safetensors"), ("adapter", "adapter_config.json"), ("model", "model-00002-of-00003.safetensors") })
        {
            string one = Place(), other = Place();
            Save(kind, one, Old);
            Save(kind, other, New);
            File.Copy(Path.Combine(one, part), Path.Combine(other, part), overwrite: true);
            Assert.Equal("SaveMixed", Assert.Throws<PeftException>(() => Read(kind, other)).ErrorId);
        }
    }

    [Fact]
    public void EqualSavesAreEqualByteForByte()
    {
        foreach (var kind in s_kinds)
        {
            string one = Place(), other = Place();
            Save(kind, one, Old);
            Save(kind, other, Old);
            Assert.All(Directory.GetFiles(one), file => Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(other, Path.GetFileName(file)))));
        }
    }

    [Fact]
    public void AnExportOverAnotherModelLeavesNothingOfItsTokenizer()
    {
        var place = Place();
        Save("export", place, Old);
        File.WriteAllText(Path.Combine(place, "tokenizer_config.json"), "{}");
        File.WriteAllText(Path.Combine(place, "notes.txt"), "mine");
        Directory.CreateDirectory(Path.Combine(place, "additional_chat_templates"));
        File.WriteAllText(Path.Combine(place, "additional_chat_templates", "tools.jinja"), "other");
        Save("export", place, New);
        Assert.Equal(New, Read("export", place));
        Assert.False(File.Exists(Path.Combine(place, "tokenizer_config.json")));
        Assert.Empty(Directory.GetFiles(Path.Combine(place, "additional_chat_templates")));
        Assert.True(File.Exists(Path.Combine(place, "notes.txt")));
    }

    [Fact]
    public void A_model_without_a_tokenizer_leaves_none_of_another_model()
    {
        using var folder = new TemporaryFolder();
        folder.Write("tokenizer.json", "{}");
        folder.Write("chat_template.jinja", "other");
        folder.Write("notes.txt", "mine");
        using var model = TinyLlama.Create();
        model.Save(folder.Path);
        Assert.Equal(["config.json", "model.safetensors", "notes.txt"], Directory.GetFiles(folder.Path).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void AnAdapterThatAnotherProgramSavedAnewIsRead()
    {
        var place = Place();
        Save("adapter", place, Old);
        var weights = Path.Combine(place, "adapter_model.safetensors");
        using (var store = SafetensorsFile.Open(weights))
        {
            SafetensorsWriter.Write(weights, [.. store.Names.Select(name => (name, store.Read(name)))]);
        }

        Assert.Equal(Old, Read("adapter", place));
    }

    [Fact]
    public void AnotherSaveIntoTheFolderLeavesWhatIsBeingWritten()
    {
        FileSet.Replace(_folder.Path, [("a", stream => stream.Write("new a"u8)), ("b", stream =>
        {
            foreach (var file in Directory.GetFiles(_folder.Path, "*", SearchOption.AllDirectories))
            {
                File.SetLastWriteTimeUtc(file, DateTime.UtcNow.AddYears(-1));
            }

            FileSet.Replace(_folder.Path, [("c", other => other.Write("new c"u8))]);
            AtomicFile.WriteText(_folder["d"], "new d");
            stream.Write("new b"u8);
        })]);
        Assert.Equal(["new a", "new b", "new c", "new d"], Directory.GetFiles(_folder.Path).Order().Select(File.ReadAllText));
        Assert.Empty(Directory.GetDirectories(_folder.Path));
    }

    [Fact]
    public async Task AReaderWaitsForASaveThatIsPuttingItsFilesInPlace()
    {
        var place = Place();
        Save("adapter", place, Old);
        using var reached = new ManualResetEventSlim();
        var saving = Task.Run(() =>
        {
            Disk.Observer = (step, path) =>
            {
                if (step == "move" && path.EndsWith("adapter_config.json", StringComparison.Ordinal) && !reached.IsSet)
                {
                    reached.Set();
                    Thread.Sleep(300);
                }
            };
            Save("adapter", place, New);
        });
        reached.Wait();
        Assert.Equal(New, Read("adapter", place));
        await saving;
    }

    /// <summary>Saves a small adapter or a model in three shards whose every number is made of a seed.</summary>
    internal static void Save(string kind, string folder, int seed)
    {
        if (Environment.GetCommandLineArgs() is [_, "save", ..])
        {
            ChildProcess.DieAtStep();
        }

        if (kind == "adapter")
        {
            using var model = TinyLlama.Create();
            model.AddAdapter(new LoraConfig { Rank = 2, Alpha = seed, TargetModules = Peft.Adapters.Targets.ModuleNames.AllLinear }, "saved");
            using (no_grad())
            {
                foreach (var parameter in model["saved"].TrainableParameters)
                {
                    parameter.Parameter.Data.fill_(seed);
                }
            }

            model.SaveAdapter("saved", folder);
        }
        else if (kind == "export")
        {
            using var model = TinyLlama.Create(seed: (ulong)seed);
            model.Base.FindParameter("lm_head.weight")!.Data.fill_(seed);
            var source = Directory.CreateTempSubdirectory("peft-tokenizer-").FullName;
            File.Copy(Path.Combine(PocketLlama.Folder, "tokenizer.json"), Path.Combine(source, "tokenizer.json"));
            File.WriteAllText(Path.Combine(source, "chat_template.jinja"), $"{seed}");
            using var exported = new PeftModel(model.Base, "exported") { Tokenizer = Tokenizer.FromFolder(source) };
            exported.Save(folder, maxShardBytes: 4000);
            Directory.Delete(source, recursive: true);
        }
        else if (kind == "merge")
        {
            using var model = TinyLlama.Create(seed: (ulong)seed);
            model.Base.FindParameter("lm_head.weight")!.Data.fill_(seed);
            var source = Directory.CreateDirectory(Path.Combine(Path.GetDirectoryName(folder)!, $"merged-{Guid.NewGuid():N}")).FullName;
            model.Save(Path.Combine(source, "base"));
            model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = Peft.Adapters.Targets.ModuleNames.AllLinear }, "saved", 1);
            model.SaveAdapter("saved", Path.Combine(source, "adapter"));
            FolderMerge.Run(Path.Combine(source, "base"), [Path.Combine(source, "adapter")], folder, shardBytes: 4000);
            Directory.Delete(source, recursive: true);
        }
        else if (kind == "file")
        {
            SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), [("a", full(8, seed, ScalarType.Float32))]);
        }
        else
        {
            var documents = new[] { ("config.json", new System.Text.Json.Nodes.JsonObject { ["seed"] = seed }) };
            SafetensorsWriter.WriteFolder(folder, [("a", full(8, seed, ScalarType.Float32)), ("b", full(8, seed, ScalarType.Float32)), ("c", full(8, seed, ScalarType.Float32))], maxShardBytes: 40, documents: documents);
        }
    }

    private static int Read(string kind, string folder)
    {
        if (kind == "adapter")
        {
            using var model = TinyLlama.Create();
            model.LoadAdapter(folder, "saved");
            var seed = (int)((LoraConfig)model["saved"].Config).Alpha;
            Assert.All(model["saved"].TrainableParameters, parameter => Assert.All(parameter.Parameter.Data.data<float>().ToArray(), value => Assert.Equal(seed, value)));
            return seed;
        }

        if (kind is "export" or "merge")
        {
            using var model = PeftModel.Load(folder);
            var value = (int)model.Base.FindParameter("lm_head.weight")!.Data[0, 0].item<float>();
            if (kind == "export")
            {
                Assert.Equal($"{value}", File.ReadAllText(Path.Combine(folder, "chat_template.jinja")));
            }

            using var same = TinyLlama.Create(seed: (ulong)value);
            Assert.True(same.Base.FindParameter("model.embed_tokens.weight")!.Data.Equals(model.Base.FindParameter("model.embed_tokens.weight")!.Data));
            return value;
        }

        using var store = TensorStore.OpenFolder(folder);
        int[] seeds = [.. store.Names.SelectMany(name => store.Read(name).data<float>().ToArray()).Select(static value => (int)value), kind == "model" ? (int)JsonFile.ReadNode(Path.Combine(folder, "config.json"))["seed"]! : (int)store.Read("a")[0].item<float>()];
        return Assert.Single(seeds.Distinct());
    }

    private static PeftException? FailAt(int step, Action save)
    {
        Disk.Observer = (_, _) =>
        {
            if (--step == 0)
            {
                throw new IOException("No space left on device", DiskIsFull);
            }
        };
        try
        {
            save();
            return null;
        }
        catch (PeftException error)
        {
            return error;
        }
        finally
        {
            Disk.Observer = null;
        }
    }

    private int CountSteps(string kind)
    {
        var place = Place();
        Save(kind, place, Old);
        var steps = 0;
        Disk.Observer = (_, _) => steps++;
        Save(kind, place, New);
        Disk.Observer = null;
        return steps;
    }

    private string Place() => Directory.CreateDirectory(_folder[Path.GetRandomFileName()]).FullName;
}
