using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Conversion;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Tensors;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Adapters that PEFT turned into LoRA.</summary>
public class AdapterConversionGoldenTests
{
    [GoldenTheory]
    [GoldenData(AdapterGolden.Domain, "conversion/")]
    public void What_the_peer_converted_is_converted_as_well_and_computes_the_same(string path) => GoldenCases.Run(AdapterGolden.Domain, path, folder =>
    {
        var record = AdapterGolden.Case(folder);
        using var model = AdapterGolden.Base((string)record["base"]!);
        if (record["error"] is not null)
        {
            ConvertWhole(model, record);
        }
        else if (record["source"] is not null)
        {
            Convert(model, folder, record);
        }
        else
        {
            ConvertStart(model, folder, record);
        }
    });

    /// <summary>What the peer refuses: here whatever can be merged is converted, exactly where nothing is cut off.</summary>
    private static void ConvertWhole(PeftModel model, JsonObject record)
    {
        var source = model.LoadAdapter(AdapterGolden.PathOf((string)record["source"]!));
        if (source.Adapter.Layers.Count == 0)
        {
            Assert.Equal("AdapterConversionNotPossible", Assert.Throws<PeftException>(() => AdapterConversion.ToLora(model, source.Name, "lora")).ErrorId);
            return;
        }

        var io = AdapterGolden.Tensors(Path.Combine(AdapterGolden.PathOf((string)record["source"]!), "..", "io.safetensors"));
        AdapterConversion.ToLora(model, source.Name, "lora", new ConversionOptions { Energy = 1 });
        model.SetActive("lora");
        using var logits = ModelRun.Logits(model, io);
        AdapterGolden.AssertClose(io["adapter_logits"], logits, JsonNode.Parse("""{"atol": 5e-5, "rtol": 1e-4}""")!, "converted logits");
        AdapterGolden.Free(io);
    }

    private static void Convert(PeftModel model, string folder, JsonObject record)
    {
        var tolerance = record["tolerance"]!;
        var io = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
        var source = model.LoadAdapter(AdapterGolden.PathOf((string)record["source"]!));
        using (var before = ModelRun.Logits(model, io))
        {
            AdapterGolden.AssertClose(io["source_logits"], before, tolerance, "source logits");
        }

        var amount = record["arguments"]!["rank"]!.AsValue();
        var converted = AdapterConversion.ToLora(model, source.Name, "lora", amount.TryGetValue<int>(out var rank) ? new ConversionOptions { Rank = rank } : new ConversionOptions { Energy = (double)amount });
        var isTheirs = HoldChanges(io, source, converted, tolerance);
        HoldKeys(model, record);
        model.SetActive("lora");
        using (var logits = ModelRun.Logits(model, io))
        {
            if (isTheirs)
            {
                AdapterGolden.AssertClose(io["converted_logits"], logits, tolerance, "converted logits");
            }
        }

        model.LoadAdapter(Path.Combine(folder, "adapter"), "theirs");
        model.SetActive("theirs");
        using (var logits = ModelRun.Logits(model, io))
        {
            AdapterGolden.AssertClose(io["converted_logits"], logits, tolerance, "logits of the peer's file");
        }

        AdapterGolden.Free(io);
    }

    /// <summary>
    /// Changes are the peer's, and the error that is stated is the distance from the source's own. Where the peer's change isn't the source's (DoRA's without its lengths), ours
    /// has to be nearer to it.
    /// </summary>
    private static bool HoldChanges(Dictionary<string, Tensor> io, PeftAdapter source, PeftAdapter converted, JsonNode tolerance)
    {
        using var scope = NewDisposeScope();
        var isTheirs = true;
        foreach (var (layer, adapter) in converted.Adapter.Layers)
        {
            var factors = adapter.LowRank(1)!;
            var change = factors.B.Data.mm(factors.A.Data).mul(factors.Scale);
            var bare = new Affine(layer.Weight.Data.to(ScalarType.Float32), layer.Bias?.Data);
            var own = source.Adapter.Layers.Single(other => other.Layer.Weight == layer.Weight).Adapter.Merge(new Affine(bare.Weight.clone(), bare.Bias?.clone()), bare).Weight - bare.Weight;
            var lost = (own - change).norm().item<float>();
            Assert.Equal(lost / own.norm().item<float>(), converted.Conversion!.Layers.Single(entry => entry.Module == layer.Path).Error, 1e-3);
            if (IsTied(own, (int)factors.A.Data.size(0)))
            {
                isTheirs = false;
                continue;
            }

            if (io.TryGetValue("delta." + layer.Path, out var theirs) && (own - theirs).norm().item<float>() <= lost + 1e-4)
            {
                AdapterGolden.AssertClose(theirs, change, tolerance, $"change of {layer.Path}");
            }
            else if (theirs is not null)
            {
                isTheirs = false;
            }
        }

        return isTheirs;
    }

    /// <summary>Whether the singular values on both sides of the cut are one, as circulant blocks have them in pairs: which of their vectors is kept is the library's choice.</summary>
    private static bool IsTied(Tensor change, int rank)
    {
        var values = linalg.svd(change.to(ScalarType.Float64), fullMatrices: false).S.data<double>().ToArray();
        return rank < values.Length && values[rank - 1] - values[rank] < 1e-4 * values[0];
    }

    private static void HoldKeys(PeftModel model, JsonObject record)
    {
        var saved = Directory.CreateTempSubdirectory("peft-adapter-").FullName;
        model.SaveAdapter("lora", saved);
        using (var ours = TensorStore.OpenFolder(saved, "adapter_model"))
        {
            var theirs = record["state_dict"]!.AsObject();
            Assert.Equal(theirs.Select(static entry => $"{entry.Key} {entry.Value!.ToJsonString()}").Order(StringComparer.Ordinal), ours.Names.Select(name => $"{name} [{string.Join(',', ours.Entry(name).Shape)}]").Order(StringComparer.Ordinal));
        }

        Directory.Delete(saved, recursive: true);
    }

    /// <summary>A start that took its part out of the base: saved as LoRA, it does the same on the base as it was.</summary>
    private static void ConvertStart(PeftModel model, string folder, JsonObject record)
    {
        var tolerance = record["tolerance"]!;
        var io = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
        var trained = model.LoadAdapter(Path.Combine(folder, "trained"));
        using (var before = ModelRun.Logits(model, io))
        {
            AdapterGolden.AssertClose(io["trained_logits"], before, tolerance, "trained logits");
        }

        var saved = Directory.CreateTempSubdirectory("peft-adapter-").FullName;
        Assert.Equal(0, AdapterConversion.SaveAsLora(model, trained.Name, saved).Error);
        var config = AdapterGolden.Read(Path.Combine(saved, AdapterConfig.FileName));
        foreach (var (field, value) in record["converted_config"]!.AsObject())
        {
            Assert.True(JsonNode.DeepEquals(value, config[field]) || (value!.GetValueKind() == JsonValueKind.Number && Math.Abs((double)value - (double)config[field]!) < 1e-9), $"{field} is {config[field]}, the peer's {value}");
        }

        model.RemoveAdapter(trained.Name);
        foreach (var converted in new[] { saved, Path.Combine(folder, "converted") })
        {
            model.LoadAdapter(converted);
            using var logits = ModelRun.Logits(model, io);
            AdapterGolden.AssertClose(io["converted_logits"], logits, tolerance, "converted logits");
        }

        AdapterGolden.Free(io);
        Directory.Delete(saved, recursive: true);
    }
}
