using System.Globalization;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Engine;
using Peft.Models;
using Xunit.Abstractions;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>What a merge from folder to folder holds in memory, on the shape of SmolLM2-135M in bfloat16. No other test runs beside it.</summary>
[Collection(LiveTensors.Name)]
public sealed class FolderMergeMemoryTests(ITestOutputHelper output) : IDisposable
{
    private const long FileBytes = 64L << 20;

    /// <summary>The adapter, one layer in float32, and what the engine takes for itself.</summary>
    private const long BesideBytes = 48L << 20;

    private readonly TemporaryFolder _folder = new();

    [SkippableFact]
    public void Memory_holds_one_file_of_the_result_beside_the_adapter()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "memory of the process's own, without mapped files, is read from /proc");
        var weights = WriteBaseAndAdapter();
        GC.Collect();
        FreedMemory.GiveBack();
        var before = OwnMemory();
        long most = 0;
        var report = FolderMerge.Run(_folder["base"], [_folder["a"]], _folder["out"], FileBytes, onProgress: (_, _) => most = Math.Max(most, OwnMemory() - before));
        output.WriteLine(FormattableString.Invariant($"weights {weights >> 20} MB, {report.Files.Count} files, the largest {report.LargestShard >> 20} MB; memory at most {most >> 20} MB more"));
        Assert.True(weights > 3 * (FileBytes + BesideBytes) / 2);
        Assert.True(most < report.LargestShard + BesideBytes, FormattableString.Invariant($"{most >> 20} MB"));
    }

    public void Dispose() => _folder.Dispose();

    private static long OwnMemory()
    {
        const string Own = "RssAnon:";
        var line = File.ReadLines("/proc/self/status").First(static line => line.StartsWith(Own, StringComparison.Ordinal));
        return long.Parse(line[Own.Length..].Replace("kB", "", StringComparison.Ordinal), CultureInfo.InvariantCulture) * 1024;
    }

    /// <summary>Writes both; returns the base's bytes.</summary>
    private long WriteBaseAndAdapter()
    {
        using var noGradients = no_grad();
        var bare = ArchitectureRegistry.Create(ModelConfig.FromText("""
            {
              "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
              "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true, "dtype": "bfloat16"
            }
            """));
        foreach (var (owner, follower) in bare.TiedParameters)
        {
            bare.FindParameter(follower)!.TieTo(bare.FindParameter(owner)!);
        }

        foreach (var (_, parameter, _) in bare.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            parameter.Assign(full([.. parameter.Shape], 0.02, ScalarType.BFloat16));
        }

        bare.Fuse();
        using var model = new PeftModel(bare, "large");
        model.Save(_folder["base"]);
        model.AddAdapter(new LoraConfig { Rank = 8, TargetModules = ModuleNames.AllLinear }, "a", 1).Perturb(2);
        model.SaveAdapter("a", _folder["a"]);
        return bare.CountParameters() * sizeof(ushort);
    }
}
