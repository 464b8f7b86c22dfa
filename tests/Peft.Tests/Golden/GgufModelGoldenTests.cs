using Peft.Files;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Models in GGUF files give the logits that transformers gives with them.</summary>
public class GgufModelGoldenTests
{
    private const string ReferenceFile = "reference.safetensors";

    [GoldenTheory]
    [GoldenData("gguf", Holding = ReferenceFile, HoldingTensor = "logits")]
    public void Logits(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var recorded = TensorStore.OpenFile(Path.Combine(folder, ReferenceFile));
        using var model = (CausalModel)ModelLoader.Load(Path.Combine(folder, "model.gguf"));
        var tolerance = JsonFile.ReadObject(Path.Combine(folder, "case.json")).GetProperty("tolerance").GetProperty("logits");
        var context = new ForwardContext();
        TensorAssert.Close(recorded.Read("logits"), model.Logits(model.Forward(recorded.Read("input_ids"), context), context), tolerance, "logits");
    });
}
