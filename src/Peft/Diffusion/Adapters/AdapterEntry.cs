using Peft.Adapters.Methods.Lycoris;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>What acts on one module, in LyCORIS's terms, on its way from one format into another.</summary>
/// <param name="Module">The module.</param>
/// <param name="What">Alpha, and the shapes of the tensors.</param>
/// <param name="Tensors">The tensors by LyCORIS's keys, without the alpha; they belong to the caller's dispose scope.</param>
internal sealed record AdapterEntry(DiffusionModule Module, LycorisModule What, IReadOnlyDictionary<string, Tensor> Tensors)
{
    /// <summary>Makes one whose shapes are those of its tensors.</summary>
    public static AdapterEntry Of(DiffusionModule module, double? alpha, IReadOnlyDictionary<string, Tensor> tensors, bool isByInput = false) =>
        new(module, new LycorisModule(tensors.ToDictionary(static entry => entry.Key, static entry => (IReadOnlyList<long>)entry.Value.shape)) { Alpha = alpha, IsByInput = isByInput }, tensors);

    /// <summary>Whether it is LoRA.</summary>
    public bool IsLora => Tensors.ContainsKey("lora_down.weight");

    /// <summary>LoRA's factors by themselves: a core multiplied into the first, the scale into the second, in the shapes of the layer.</summary>
    public (Tensor Down, Tensor Up) Factors()
    {
        var (down, up) = (Tensors["lora_down.weight"], Tensors["lora_up.weight"]);
        var type = down.dtype;
        var rank = down.size(0);
        var first = down.to(ScalarType.Float32).flatten(1);
        if (Tensors.TryGetValue("lora_mid.weight", out var core))
        {
            // down'[a, i, k] = Σ core[a, b, k] · down[b, i]: the factor at which the core comes first.
            var taps = core.to(ScalarType.Float32).flatten(2).transpose(1, 2).reshape(-1, rank);
            first = taps.mm(first).view(rank, -1, first.size(1)).transpose(1, 2).reshape(rank, -1);
        }

        var kernel = Module.Layer.Kernel;
        var second = up.to(ScalarType.Float32).reshape(-1, rank) * ((What.Alpha ?? rank) / rank);
        return (first.reshape([rank, -1, .. kernel]).to(type).contiguous(), second.reshape([second.size(0), rank, .. kernel.Select(static _ => 1L)]).to(type).contiguous());
    }
}
