using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Adapters that PEFT saved for the parts of a diffusion model: each in its part, outputs as recorded.</summary>
public sealed class DiffusionPeftGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "adapters/inputs-")]
    public void A_diffusion_model_without_adapters_gives_what_diffusers_gives(string path) => GoldenCases.Run("diffusion", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", expected.GetProperty("arguments").GetProperty("model").GetString()!));
        foreach (var (part, actual) in DiffusionProbe.Outputs(model, recorded))
        {
            TensorAssert.Close(recorded.Read("base." + part), actual, expected.GetProperty("tolerance"), part);
        }
    });

    [GoldenTheory]
    [GoldenData("diffusion", "adapters/peft-")]
    public void An_adapter_that_PEFT_saved_for_a_part_acts_as_recorded(string path) => GoldenCases.Run("diffusion", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        using var inputs = SafetensorsFile.Open(Path.Combine(GoldenCases.PathOf("diffusion", expected.GetProperty("inputs").GetString()!), "data.safetensors"));
        var source = GoldenCases.PathOf("diffusion", expected.GetProperty("arguments").GetProperty("model").GetString()!);
        string[] parts = [.. Directory.GetDirectories(folder).Select(static part => Path.GetFileName(part)).Order(StringComparer.Ordinal)];
        Assert.NotEmpty(parts);
        foreach (var part in parts)
        {
            using var model = DiffusionModelFiles.IsDiffusionModel(Path.Combine(source, part)) ? DiffusionModelFiles.Load(Path.Combine(source, part)) : PeftModel.Load(Path.Combine(source, part));
            model.LoadAdapter(Path.Combine(folder, part));
            TensorAssert.Close(recorded.Read("output." + part), DiffusionProbe.Output(model.Base, inputs, model.NewPass(new ForwardContext())), expected.GetProperty("tolerance"), part);
            var changed = recorded.Names.Where(name => name.StartsWith($"delta.{part}.", StringComparison.Ordinal)).ToDictionary(static name => name, name => Weight(model.Base, name[$"delta.{part}.".Length..]), StringComparer.Ordinal);
            var before = changed.ToDictionary(static entry => entry.Key, static entry => entry.Value.Data.clone(), StringComparer.Ordinal);
            model.Merge();
            Assert.All(changed, entry => TensorAssert.Close(recorded.Read(entry.Key), entry.Value.Data - before[entry.Key], expected.GetProperty("tolerance"), entry.Key));
        }
    });

    private static Parameter Weight(PretrainedModel model, string path) =>
        (model.FindParameter(path + ".weight") ?? model.FindParameter(path.Replace("text_model.", "", StringComparison.Ordinal) + ".weight"))!;
}
