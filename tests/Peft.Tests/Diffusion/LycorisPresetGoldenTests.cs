using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lycoris;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Models;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>LyCORIS's presets: the recorded modules of small models, and the counts of published ones.</summary>
[Trait("Category", "Golden")]
public sealed class LycorisPresetGoldenTests
{
    private const string Domain = "diffusion";

    [SkippableFact]
    public void A_preset_adapts_the_recorded_modules()
    {
        Skip.If(GoldenCases.DomainFolder(Domain) is null, "no golden diffusion");
        foreach (var (preset, kinds) in AdapterGolden.Read(GoldenCases.PathOf(Domain, "presets.json")).Where(static entry => !entry.Key.StartsWith('_')))
        {
            foreach (var (kind, keys) in kinds!.AsObject())
            {
                using var model = DiffusionModelFiles.Load(GoldenCases.PathOf(Domain, Path.Combine("models", kind)), new LoadOptions { StructureOnly = true });
                var modules = DiffusionModules.Of(model.Base)!;
                var byPath = modules.All.ToDictionary(static module => module.TreePath);
                var adapted = LycorisPreset.Of(preset).Match(model.Base).Select(module => modules.KohyaName(byPath[module.Path])).Order(StringComparer.Ordinal);
                Assert.Equal(keys!.AsArray().Select(static key => (string)key!).Order(StringComparer.Ordinal), adapted);
            }
        }
    }

    [SkippableFact]
    public void A_preset_on_a_published_model_has_the_recorded_counts()
    {
        Skip.If(GoldenCases.DomainFolder(Domain) is null, "no golden diffusion");
        var counts = AdapterGolden.Read(GoldenCases.PathOf(Domain, "counts.json"));
        foreach (var (name, kind) in new[] { ("lycoris-presets-sd15", BaseModelKind.First), ("lycoris-presets-sd21", BaseModelKind.Second), ("lycoris-presets-sdxl", BaseModelKind.Large) })
        {
            foreach (var (preset, rows) in counts[name]!.AsObject().Where(static entry => entry.Value is JsonObject))
            {
                foreach (var (dim, recorded) in rows!.AsObject().Where(static row => row.Key.StartsWith("dim=", StringComparison.Ordinal)))
                {
                    using var model = new PeftModel(PublishedModel.Of(kind), kind);
                    var config = new LycorisNetworkConfig { Preset = preset, Rank = int.Parse(dim["dim=".Length..], System.Globalization.CultureInfo.InvariantCulture) };
                    var expected = ((long)recorded!["unet"]!, (long)recorded["text"]!);
                    if (expected == (0, 0))
                    {
                        Assert.Equal("NoModuleMatched", Assert.Throws<PeftException>(() => model.AddAdapter(config)).ErrorId);
                        continue;
                    }

                    // The counts were recorded without the class of time embeddings in any preset.
                    var skipsTime = LycorisPreset.Of(preset).UNetClasses.Contains(LycorisPreset.TimeEmbedding);
                    var trained = model.AddAdapter(config).TrainableParameters.Where(parameter => !skipsTime || parameter.Module!.Parent!.ClassName != LycorisPreset.TimeEmbedding).ToArray();
                    long Count(bool isUNet) => trained.Where(parameter => parameter.Module!.Path.StartsWith("unet.", StringComparison.Ordinal) == isUNet).Sum(static parameter => parameter.Parameter.Count);
                    Assert.Equal((preset, dim, expected), (preset, dim, (Count(true), Count(false))));
                }
            }
        }
    }
}
