using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Placement;
using Peft.Quantization;
using Peft.Tensors;
using Peft.Tests.Adapters;
using Peft.Tests.Golden;
using Peft.Tests.Quantization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Faults;

/// <summary>Random damage to whole models and to adapters on their own bases: what loads is also run.</summary>
public sealed class ModelFolderFaultTests : IDisposable
{
    private static readonly string[] s_kinds = [.. PackedForms.Kinds, "shards", "int8"];
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact, Fault]
    public void Models()
    {
        var folders = ReaderTrial.Files("config.json").Select(static path => Path.GetDirectoryName(path)!)
            .Append(Path.Combine(GoldenCases.Repository, "tests", "references", "gpt-oss-mxfp4"))
            .Concat(Directory.GetDirectories(Path.Combine(GoldenCases.Repository, "tests", "golden", "recorded", "families")))
            .Where(static folder => new FileInfo(Path.Combine(folder, "model.safetensors")) is { Exists: true, Length: < 4 * ReaderTrial.LargestFile })
            .Concat(s_kinds.Select(Made)).ToArray();
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            ReaderTrial.CopyDamaged(folders[random.Next(folders.Length)], folder, random, static path => Path.GetFileName(path) is "config.json" or "generation_config.json" || Path.GetFileName(path).StartsWith("model", StringComparison.Ordinal));
            var options = random.Next(4) switch
            {
                0 => new LoadOptions { DeviceMap = new DeviceMapRequest { Table = [("", DeviceMapRequest.Disk)], OffloadFolder = _folder["offloaded"] } },
                1 => new LoadOptions { DataType = ScalarType.BFloat16 },
                _ => new LoadOptions(),
            };
            ReaderTrial.Bounded(() =>
            {
                using var model = PeftModel.Load(folder, options);
                Use(model);
            });
        }));
    }

    [Fact, Fault]
    public void AdaptersOfEveryMethod()
    {
        var cases = GoldenCases.Enumerate(AdapterGolden.Domain, "cases/").Select(AdapterGolden.PathOf).Where(static folder => Directory.Exists(Path.Combine(folder, "adapter"))).ToArray();
        if (cases.Length == 0)
        {
            return;
        }

        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            var source = cases[random.Next(cases.Length)];
            ReaderTrial.CopyDamaged(Path.Combine(source, "adapter"), folder, random);
            ReaderTrial.Bounded(() =>
            {
                using var model = AdapterGolden.Base((string)AdapterGolden.Case(source)["base"]!);
                model.LoadAdapter(folder, "damaged");
                Use(model);
            });
        }));
    }

    private static void Use(PeftModel model)
    {
        if (model.Base is PlainModel || model.Base.Backbone.Image is not null)
        {
            return;
        }

        var ids = tensor(new long[] { 1, 2, 0, 3, 1 }, [1, 5], ScalarType.Int64);
        ModelRun.Logits(model, new Dictionary<string, Tensor> { ["input_ids"] = ids, ["labels"] = ids }).Dispose();
        if (model.Base is CausalModel or SequenceToSequenceModel)
        {
            new TextGenerator(model).Generate([[1, 2, 3]], new GenerationOptions { MaxNewTokens = 3 });
        }
    }

    private string Made(string kind)
    {
        using var model = TinyLlama.Create();
        if (kind == "int8")
        {
            ModelQuantizer.Quantize(model.Base, new QuantizationConfig { LoadIn8Bit = true });
        }
        else if (kind != "shards")
        {
            PackedForms.Pack(model.Base, kind);
        }

        model.Save(_folder[kind], maxShardBytes: kind == "shards" ? 4000 : 1 << 20);
        return _folder[kind];
    }
}
