using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Adapter files of diffusion models, as the recorded programs wrote them, against what they make of the weights.</summary>
public sealed class DiffusionAdapterGoldenTests
{
    private const string Domain = "diffusion";

    [GoldenTheory]
    [GoldenData(Domain, "adapters/", Holding = "lora.safetensors")]
    [GoldenData(Domain, "adapters/", Holding = "pytorch_lora_weights.safetensors")]
    [GoldenData(Domain, "lycoris/")]
    public void A_file_changes_the_weights_as_recorded(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var scope = NewDisposeScope();
        var golden = AdapterGolden.Case(folder);
        using var model = Load(golden);
        var file = Path.Combine(folder, (string)golden["files"]![0]!);
        var adapter = DiffusionAdapterFile.Load(model, file);
        Assert.Empty(adapter.Report.Unexpected);
        Assert.Empty(adapter.Report.Missing);
        if (golden["modules"] is { } modules)
        {
            Assert.Equal((int)modules, adapter.Adapter.Layers.Count);
        }

        if (golden["trainable"] is { } trainable)
        {
            Assert.Equal((long)trainable, adapter.TrainableParameters.Sum(static parameter => parameter.Parameter.Count));
        }

        var table = DiffusionModules.Of(model.Base)!;
        var before = table.All.ToDictionary(static module => module, static module => (Weight: module.Layer.Weight.Data.clone(), Bias: module.Layer.Bias?.Data.clone()));
        model.Merge();
        foreach (var (name, expected) in AdapterGolden.Tensors(Path.Combine(folder, "data.safetensors")).Where(static entry => entry.Key.StartsWith("delta.", StringComparison.Ordinal)))
        {
            var label = name["delta.".Length..];
            var isBias = table.Find(label) is null;
            var module = table.Find(isBias ? label[..^".bias".Length] : label)!;
            var change = isBias ? module.Layer.Bias!.Data - before[module].Bias! : module.Layer.Weight.Data - before[module].Weight;
            AdapterGolden.AssertClose(expected.view(change.shape), change, golden["tolerance"]!, label);
        }

        model.UndoMerge();
        Assert.All(before, static entry => Assert.True(entry.Key.Layer.Weight.Data.equal(entry.Value.Weight).all().item<bool>()));
    });

    /// <summary>UNet and text encoders compute what was recorded, at full strength and at others, merged and not.</summary>
    [GoldenTheory]
    [GoldenData(Domain, "adapters/", Holding = "lora.safetensors")]
    [GoldenData(Domain, "adapters/", Holding = "pytorch_lora_weights.safetensors")]
    [GoldenData(Domain, "lycoris/")]
    public void A_model_computes_with_a_file_what_was_recorded(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var golden = AdapterGolden.Case(folder);
        using var model = Load(golden);
        using var inputs = SafetensorsFile.Open(GoldenCases.PathOf(Domain, Path.Combine((string)golden["inputs"]!, "data.safetensors")));
        var recorded = AdapterGolden.Tensors(Path.Combine(folder, "data.safetensors"));
        var name = DiffusionAdapterFile.Load(model, Path.Combine(folder, (string)golden["files"]![0]!)).Name;
        foreach (var prefix in recorded.Keys.Where(static key => key.StartsWith("output", StringComparison.Ordinal)).Select(static key => key[..key.LastIndexOf('.')]).Distinct())
        {
            if (prefix == "output_masked")
            {
                continue;
            }

            var strength = prefix == "output" ? 1f : float.Parse(prefix["output_at_".Length..], CultureInfo.InvariantCulture);
            model.SetActive([new ActiveAdapter(name, strength)]);
            Compare(prefix);
            model.Merge();
            Compare(prefix);
            model.UndoMerge();
        }

        model.Disable();
        Compare("base");

        void Compare(string prefix)
        {
            foreach (var (part, actual) in DiffusionProbe.Outputs(model, inputs))
            {
                var name = $"{prefix}.{part}";
                if ((prefix == "base" ? inputs.Read(name) : recorded.GetValueOrDefault(name)) is { } expected)
                {
                    AdapterGolden.AssertClose(expected, actual, golden["tolerance"]!, name);
                }
            }
        }
    });

    /// <summary>Written in each format, a file makes the same weights, or its report names what the format can't hold.</summary>
    [GoldenTheory]
    [GoldenData(Domain, "adapters/", Holding = "lora.safetensors")]
    [GoldenData(Domain, "adapters/", Holding = "pytorch_lora_weights.safetensors")]
    [GoldenData(Domain, "lycoris/")]
    public void A_file_keeps_its_meaning_in_every_format(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var scope = NewDisposeScope();
        using var temporary = new TemporaryFolder();
        var golden = AdapterGolden.Case(folder);
        using var model = Load(golden);
        var source = Path.Combine(folder, (string)golden["files"]![0]!);
        DiffusionAdapterFile.Load(model, source, "first");
        var expected = Merged(model, "first");
        foreach (var format in Enum.GetValues<DiffusionAdapterFormat>())
        {
            var (saved, converted) = (Path.Combine(temporary.Path, $"{format}.safetensors"), Path.Combine(temporary.Path, $"{format}-converted.safetensors"));
            if (format != DiffusionAdapterFormat.LyCORIS && (HoldsNoLora(model) || (format == DiffusionAdapterFormat.Diffusers && HoldsDoraByInput(model))))
            {
                Assert.Equal("AdapterFormatLosesAll", Assert.Throws<PeftException>(() => DiffusionAdapterFile.Save(model, "first", saved, format)).ErrorId);
                Assert.Equal("AdapterFormatLosesAll", Assert.Throws<PeftException>(() => DiffusionAdapterFile.Convert(source, converted, format, model.Base)).ErrorId);
                Assert.Empty(Directory.GetFiles(temporary.Path, $"{format}*"));
                continue;
            }

            var reports = new[] { DiffusionAdapterFile.Save(model, "first", saved, format), DiffusionAdapterFile.Convert(source, converted, format, model.Base) };
            foreach (var report in reports)
            {
                var again = DiffusionAdapterFile.Load(model, report.Path, "again");
                Assert.Empty(again.Report.Unexpected);
                Assert.Equal(report.Modules, again.Adapter.Layers.Count);
                var lost = report.Lost.Select(static loss => loss.Module).ToHashSet();
                Assert.Equal(model["first"].Adapter.Layers.Count, report.Modules + lost.Count);
                foreach (var (where, weight) in Merged(model, "again").Where(entry => !lost.Contains(entry.Key)))
                {
                    AdapterGolden.AssertClose(expected[where], weight, golden["tolerance"]!, $"{format}: {where}");
                }
            }
        }
    });

    /// <summary>An adapter for one model ends on another one in an error that says so, and nothing has changed.</summary>
    [GoldenTheory]
    [GoldenData(Domain, "adapters/", Holding = "lora.safetensors")]
    public void A_file_for_another_model_is_refused_by_name(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var scope = NewDisposeScope();
        var golden = AdapterGolden.Case(folder);
        var own = (string)golden["arguments"]!["model"]!;
        foreach (var other in Directory.GetDirectories(GoldenCases.PathOf(Domain, "models")).Where(other => own.EndsWith("xl", StringComparison.Ordinal) != other.EndsWith("xl", StringComparison.Ordinal)))
        {
            using var model = DiffusionModelFiles.Load(other);
            var error = Assert.Throws<PeftException>(() => DiffusionAdapterFile.Load(model, Path.Combine(folder, "lora.safetensors")));
            Assert.Equal("AdapterModelMismatch", error.ErrorId);
            Assert.Empty(model.Adapters);
            Assert.All(model.Base.NamedParameters(), static named => Assert.Null(named.Parameter.Slot));
        }
    });

    /// <summary>Both spellings of every module's name, and none twice.</summary>
    [SkippableFact]
    [Trait("Category", "Golden")]
    public void Modules_have_the_recorded_names()
    {
        Skip.If(GoldenCases.DomainFolder(Domain) is null, "no golden diffusion");
        var all = AdapterGolden.Read(GoldenCases.PathOf(Domain, "names.json"));
        foreach (var (kind, rows) in all.Where(static entry => entry.Value is JsonArray))
        {
            using var model = DiffusionModelFiles.Load(GoldenCases.PathOf(Domain, Path.Combine("models", kind)), new LoadOptions { StructureOnly = true });
            var modules = DiffusionModules.Of(model.Base)!;
            foreach (var row in (JsonArray)rows!)
            {
                var module = modules.Find((string)row![3]!);
                Assert.NotNull(module);
                Assert.Equal(((string)row[0]!, (string)row[1]!), (module.Component, module.Path));
                Assert.Equal((string)row[3]!, modules.KohyaName(module));
                Assert.Same(module, modules.Find($"{row[0]}.{row[1]}"));
                if (row.AsArray().Count > 4)
                {
                    Assert.Equal((string)row[4]!, modules.KohyaName(module, original: true));
                    Assert.Same(module, modules.Find((string)row[4]!));
                }
            }
        }
    }

    private static bool HoldsNoLora(PeftModel model) => model["first"].Adapter.Parameters().All(static parameter => !parameter.FullKey.EndsWith("lora_down.weight", StringComparison.Ordinal));

    private static bool HoldsDoraByInput(PeftModel model) => model["first"].Adapter.Parameters().Any(static parameter => parameter.FullKey.EndsWith("dora_scale", StringComparison.Ordinal) && parameter.Parameter.Shape[0] == 1);

    private static Dictionary<string, Tensor> Merged(PeftModel model, string adapter)
    {
        model.Merge([adapter]);
        var weights = DiffusionModules.Of(model.Base)!.All.ToDictionary(static module => module.TreePath, static module => module.Layer.Weight.Data.clone());
        model.UndoMerge();
        return weights;
    }

    private static PeftModel Load(JsonObject golden)
    {
        var folder = GoldenCases.PathOf(Domain, (string)golden["arguments"]!["model"]!);
        return DiffusionModelFiles.Load(folder);
    }
}
