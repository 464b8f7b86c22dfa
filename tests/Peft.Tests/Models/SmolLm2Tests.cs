using Peft.Files;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>A published model in a GGUF file against what transformers computes with it.</summary>
public class SmolLm2Tests
{
    private const string Name = "smollm2-135m-instruct-gguf";

    [SkippableFact]
    public void ItsLogitsAndGreedyContinuationsAreTransformers() => Run((model, reference, expected) =>
    {
        var tolerance = expected.GetProperty("tolerance").GetProperty("logits");
        foreach (var key in reference.Names.Where(static name => name.EndsWith(".input_ids", StringComparison.Ordinal) && name.StartsWith("prompt", StringComparison.Ordinal)))
        {
            using var scope = NewDisposeScope();
            var prompt = key[..^".input_ids".Length];
            var ids = reference.Read(key).unsqueeze(0);
            var context = new ForwardContext();
            var output = model.Forward(ids, context);
            var logits = model.Logits(output.LastPosition(), context);
            var (values, indices) = logits.topk(20);
            TensorAssert.Close(reference.Read($"{prompt}.top_logits"), values, tolerance, prompt);
            Assert.Equal(reference.Read($"{prompt}.top_ids").data<long>().ToArray()[..5], indices.data<long>().ToArray()[..5]);
            if (reference.Contains($"{prompt}.logits"))
            {
                TensorAssert.Close(reference.Read($"{prompt}.logits"), logits, tolerance, prompt);
            }

            var wanted = reference.Read($"{prompt}.continuation").data<long>().ToArray();
            Assert.Equal(wanted, GreedyLoop.Continue(model, ids, wanted.Length, model.Config.TokenIds("eos_token_id")));
        }
    });

    [SkippableFact]
    public void ItsPerplexityIsTransformers() => Run((model, reference, expected) =>
    {
        var ids = reference.Read("passage.input_ids").unsqueeze(0);
        var context = new ForwardContext();
        var losses = model.TokenLosses(model.Forward(ids, context), ids, context);
        TensorAssert.Close(reference.Read("passage.nll"), losses, expected.GetProperty("tolerance").GetProperty("nll"), "nll");
        Assert.Equal(expected.GetProperty("passage").GetProperty("perplexity").GetDouble(), Math.Exp(losses.mean().item<float>()), 0.01);
    });

    private static void Run(Action<CausalModel, TensorStore, System.Text.Json.JsonElement> body)
    {
        var folder = SharedModels.Folder(Name);
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = (CausalModel)ModelLoader.Load(Directory.GetFiles(folder, "*.gguf")[0]);
        using var reference = TensorStore.OpenFile(Path.Combine(folder, "reference.safetensors"));
        body(model, reference, JsonFile.ReadObject(Path.Combine(folder, "reference.json")));
    }
}
