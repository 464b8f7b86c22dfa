using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Variants of LoRA that PEFT recorded one by one (tests/golden/generate/adapter_variants.py).</summary>
public class AdapterVariantTests
{
    private static readonly string s_folder = Path.Combine(GoldenCases.Repository, "tests", "references", "adapter-variants");

    public static TheoryData<string> Cases() => new(Directory.GetFiles(s_folder, "case.json", SearchOption.AllDirectories).Select(static path => Path.GetFileName(Path.GetDirectoryName(path)!)).Order(StringComparer.Ordinal));

    [Theory]
    [MemberData(nameof(Cases))]
    public void They_compute_and_learn_what_the_peer_does_and_save_what_they_read(string name)
    {
        using var scope = NewDisposeScope();
        using var temporary = new TemporaryFolder();
        var folder = Path.Combine(s_folder, name);
        var document = JsonFile.ReadNode(Path.Combine(folder, "case.json"));
        using var model = PeftModel.Load(Path.Combine(s_folder, "base"));
        var names = document["adapters"]!.AsArray().Select(static entry => (string)entry!).ToArray();
        foreach (var adapter in names)
        {
            var report = model.LoadAdapter(Path.Combine(folder, adapter), adapter).Report;
            Assert.Empty(report.Missing);
            Assert.Empty(report.Unexpected);
        }

        model.SetActive(names[^1]);
        using var file = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        var inputs = new Dictionary<string, Tensor> { ["input_ids"] = file.Read("input_ids"), ["labels"] = file.Read("labels") };
        Close(file.Read("logits"), ModelRun.Logits(model, inputs), "logits");

        var saved = Path.Combine(temporary.Path, "saved");
        model.SaveAdapter(names[^1], saved);
        using var ours = TensorStore.OpenFolder(saved, "adapter_model");
        using var theirs = TensorStore.OpenFolder(Path.Combine(folder, names[^1]), "adapter_model");
        Assert.Equal(theirs.Names.Order(StringComparer.Ordinal), ours.Names.Order(StringComparer.Ordinal));
        Assert.All(theirs.Names, key => Assert.True(theirs.Read(key).eq(ours.Read(key)).all().item<bool>(), key));

        if (file.Contains("loss"))
        {
            foreach (var layer in model[names[^1]].Adapter.Layers.Select(static layer => layer.Adapter).OfType<MonteCloraLayer>())
            {
                var place = "draw." + layer.Layer.Path;
                layer.Source = _ => new MonteCloraDraw(file.Read(place + ".noise"), file.Read(place + ".spread"), file.Read(place + ".shares"));
            }

            var (loss, gradients) = ModelRun.Backward(model, model[names[^1]], inputs, isTraining: true);
            Close(file.Read("loss"), tensor((float)loss), "loss");
            foreach (var key in file.Names.Where(static key => key.StartsWith("grad.", StringComparison.Ordinal)))
            {
                Close(file.Read(key), gradients[key["grad.".Length..]], key);
            }
        }
    }

    private static void Close(Tensor expected, Tensor found, string what) =>
        Assert.True(expected.sub(found).abs().max().item<float>() < 2e-5 * (1 + expected.abs().max().item<float>()), what);
}
