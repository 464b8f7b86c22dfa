using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>The layers and norms of a diffusion pipeline's folder by what its files hold, without a pass: enough to put adapters on and to merge them.</summary>
internal sealed class WeightTree : PretrainedModel
{
    private static readonly string[] s_components = ["unet", "text_encoder", "text_encoder_2"];

    private WeightTree(string folder)
        : base(new ModelConfig([]), "StableDiffusion")
    {
        foreach (var component in s_components.Where(name => Directory.Exists(System.IO.Path.Combine(folder, name))))
        {
            var root = Add(component, new Branch());
            using var file = TensorStore.OpenFolder(System.IO.Path.Combine(folder, component), component == "unet" ? "diffusion_pytorch_model" : "model");
            foreach (var name in file.Names.Where(static name => name.EndsWith(".weight", StringComparison.Ordinal)))
            {
                root.Place(name[..^".weight".Length].Split('.'), LayerOf(name, file));
            }

            foreach (var (path, parameter, _) in root.NamedParameters())
            {
                parameter.Assign(file.Read(path[(component.Length + 1)..]));
            }
        }
    }

    public static WeightTree Load(string folder) => new(folder);

    private static Module LayerOf(string name, TensorStore file)
    {
        var shape = file.Entry(name).Shape;
        var hasBias = file.Contains(name[..^"weight".Length] + "bias");
        return shape.Count switch
        {
            1 => new LayerNorm(shape[0], 1e-5, hasBias),
            2 when name.EndsWith("_embedding.weight", StringComparison.Ordinal) => new Embedding(shape[0], shape[1]),
            2 => new Linear(shape[1], shape[0], hasBias),
            _ => new Convolution(shape[1], shape[0], [.. shape.Skip(2)], hasBias: hasBias),
        };
    }

    private sealed class Branch : Module
    {
        public void Place(string[] path, Module leaf)
        {
            if (path.Length == 1)
            {
                Add(path[0], leaf);
                return;
            }

            var next = Children.OfType<Branch>().FirstOrDefault(child => child.Name == path[0]) ?? Add(path[0], new Branch());
            next.Place(path[1..], leaf);
        }
    }
}
