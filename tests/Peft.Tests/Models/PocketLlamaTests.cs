using Peft.Files;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>The embedded base model against what transformers computes with it.</summary>
public class PocketLlamaTests
{
    [Fact]
    public void ItsLogitsAndGreedyContinuationsAreTransformers()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = (CausalModel)ModelLoader.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        using var reference = TensorStore.OpenFile(PocketLlama.Reference("reference.safetensors"));
        var tolerance = JsonFile.ReadObject(PocketLlama.Reference("reference.json")).GetProperty("tolerance");

        foreach (var name in reference.Names.Where(static name => name.EndsWith(".input_ids", StringComparison.Ordinal)))
        {
            var ids = reference.Read(name);
            var logits = model.Logits(model.Forward(ids, new ForwardContext()), new ForwardContext());
            TensorAssert.Close(reference.Read(name.Replace(".input_ids", ".logits", StringComparison.Ordinal)), logits, tolerance, name);
            var greedy = reference.Read(name.Replace(".input_ids", ".greedy", StringComparison.Ordinal)).data<long>().ToArray();
            var prompt = ids.data<long>().ToArray();
            Assert.Equal(greedy[prompt.Length..], GreedyLoop.Continue(model, ids, greedy.Length - prompt.Length, []));
        }
    }
}
