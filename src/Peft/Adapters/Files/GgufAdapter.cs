using Peft.Adapters.Conversion;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Files;
using Peft.Models;
using Peft.Models.Gguf;
using Peft.Models.Layers;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Adapters.Files;

/// <summary>
/// LoRA as llama.cpp reads it beside a GGUF model (<c>--lora</c>; <c>ADAPTER</c> in an Ollama Modelfile): factors in float32 under the names and in the order of rows of the
/// weights they belong to, and one strength for all, alpha / rank.
/// </summary>
public static class GgufAdapter
{
    /// <summary>Writes an adapter whose change is a product of two factors. A layer whose strength isn't alpha / rank of the first one has the rest of it in its second factor.</summary>
    /// <param name="model">The model.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="path">The <c>.gguf</c> file to create or replace.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, or what writing throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>AdapterFormatNotSupported</c>: llama.cpp has no such adapters; <c>GgufArchitectureNotSupported</c> or <c>GgufTensorNotSupported</c>.</exception>
    public static void Save(PeftModel model, string name, string path)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("saving an adapter");
        var adapter = model[name].Adapter;
        var tree = new GgufTree(model.Base);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        double? alpha = null;
        List<GgufOutput> tensors = [];
        if (adapter.Layers.Count == 0)
        {
            throw Refused(adapter.Name, "");
        }

        foreach (var layer in adapter.Layers.Select(static adapted => adapted.Adapter))
        {
            var factors = adapter.Overlays.Count == 0 ? Factors(layer) : null;
            if (factors is null || (GgufExport.IsTied(model.Base) && IsTiedPart(model.Base, layer)))
            {
                throw Refused(adapter.Name, layer.Layer.Path);
            }

            var rank = factors.A.size(-2);
            alpha ??= factors.Scale * rank is var product and not 0 ? product : rank;
            var weight = tree.Find($"{layer.Layer.Path}.{layer.Layer.Weight.Name}", layer.Layer.Weight, layer.Layer.Module);
            var layout = weight.Name.Layout;
            if (!layout.HasFactors || !weight.Name.HasAdapters)
            {
                throw Refused(adapter.Name, layer.Layer.Path);
            }

            // Rows of an embedding's first factor are looked up by token. The first factor stands beside each of the tensors that the second one is cut into.
            var scaled = factors.B.to(ScalarType.Float32) * (factors.Scale * rank / alpha.Value);
            var a = layer.Layer is Embedding ? factors.A.t() : layout.MovesColumns ? layout.ToFile(factors.A, tree.Config)[0] : factors.A;
            var parts = layer.Layer is Embedding || layout.MovesColumns ? [scaled] : weight.ToFile(layer.Layer.FromMatrix(scaled));
            foreach (var (stored, b) in weight.Files.Zip(parts))
            {
                Add(stored + ".lora_a", a);
                Add(stored + ".lora_b", b);
            }
        }

        AtomicFile.MakeFolder(Path.GetDirectoryName(Path.GetFullPath(path))!);
        GgufWriter.Write(
            path,
            [("general.type", "adapter"), ("general.architecture", tree.Map.Architecture), ("general.name", adapter.Name), ("adapter.type", "lora"), ("adapter.lora.alpha", (float)alpha!.Value)],
            tensors);

        void Add(string key, Tensor values)
        {
            var ready = values.to(ScalarType.Float32).cpu().contiguous();
            tensors.Add(new GgufOutput(key, ready.shape, GgufType.Named("F32"), () => ready));
        }
    }

    /// <summary>The change as a product, or as one for each expert; null where it is none that llama.cpp could have.</summary>
    private static ChangeFactors? Factors(LayerAdapter layer) => layer is ExpertLoraLayer experts ? experts.OfExperts() : layer.Layer is Linear or Embedding or Router ? layer.ExactFactors() : null;

    /// <summary>A weight that is embedding and head at once can be adapted in one of the two alone here, but not there.</summary>
    private static bool IsTiedPart(PretrainedModel model, LayerAdapter layer) => layer.Layer is Embedding || layer.Layer.Path == model.OutputEmbeddings;

    private static NotSupportedByPeftException Refused(string adapter, string layer) =>
        new("AdapterFormatNotSupported", $"'{adapter}' can't be written for llama.cpp, which has LoRA of most linear layers, of experts, and of embeddings that aren't the head as well{(layer.Length == 0 ? "" : $"; '{layer}' has something else, or the adapter holds weights of its own")}.")
        {
            Target = adapter,
            RecommendedAction = "Turn it into plain LoRA first (ConvertTo-LoraAdapter), or merge it: Merge-LoraAdapter, then Export-PeftModel -Format Gguf.",
        };
}
