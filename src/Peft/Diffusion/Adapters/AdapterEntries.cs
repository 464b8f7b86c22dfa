using Peft.Adapters;
using Peft.Adapters.Methods;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lycoris;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>Takes adapters apart into what acts on each module.</summary>
internal static class AdapterEntries
{
    /// <summary>What a file holds, in the types that it is stored in.</summary>
    public static List<AdapterEntry> Of(AdapterContents contents) =>
    [
        .. contents.Tensors.Where(static entry => entry.Key != LycorisModule.AlphaKey).GroupBy(static entry => entry.Module).Select(group => new AdapterEntry(
            group.Key,
            contents.Modules[group.Key.TreePath],
            group.DistinctBy(static entry => entry.Key).ToDictionary(static entry => entry.Key, entry => contents.File.Read(entry.Name)))),
    ];

    /// <summary>What an adapter has on the modules of a model.</summary>
    /// <param name="adapter">The adapter, of whatever method.</param>
    /// <param name="modules">The model's modules.</param>
    /// <param name="lost">Takes what can't be said in LyCORIS's terms.</param>
    public static List<AdapterEntry> Of(Adapter adapter, DiffusionModules modules, ICollection<AdapterFormatLoss> lost)
    {
        var byWeight = modules.All.ToDictionary(static module => module.Layer.Weight);
        List<AdapterEntry> entries = [];
        foreach (var (layer, acting) in adapter.Layers.Select(static adapted => (adapted.Layer, adapted.Adapter)))
        {
            if (!byWeight.TryGetValue(layer.Weight, out var module))
            {
                lost.Add(new AdapterFormatLoss(layer.Path, "no format names such a module"));
            }
            else if (EntryOf(adapter, module, acting) is { } entry)
            {
                entries.Add(entry);
            }
            else
            {
                lost.Add(new AdapterFormatLoss(module.TreePath, $"the method {adapter.Config.PeftType} is none of LyCORIS's (ConvertTo-LoraAdapter makes LoRA of it)"));
            }
        }

        TakeCopies(adapter, byWeight, entries, lost);
        return entries;
    }

    private static AdapterEntry? EntryOf(Adapter adapter, DiffusionModule module, LayerAdapter acting)
    {
        var own = acting.Parameters.Where(static parameter => parameter.Role != ParameterRole.Derived).ToDictionary(static parameter => parameter.Key, static parameter => parameter.Parameter.Data);
        switch (adapter.Config)
        {
            case LycorisNetworkConfig network:
                var what = network.Modules![module.TreePath];
                return AdapterEntry.Of(module, what.Alpha, own, what.IsByInput);
            case LycorisConfig config when acting is LoHaLayer or LoKrLayer:
                var (rank, scale) = config.ForLayer(module.TreePath);
                return own.TryGetValue("lokr_w1", out var first) && own.ContainsKey("lokr_w2")
                    ? AdapterEntry.Of(module, rank, new Dictionary<string, Tensor>(own) { ["lokr_w1"] = first * scale })
                    : AdapterEntry.Of(module, scale * rank, own);
            case LoraConfig when acting is DoraLayer && acting.BaseEdit is null:
                var lengths = own["lora_magnitude_vector"];
                return AdapterEntry.Of(module, acting.ChangeScale * own["lora_A.weight"].size(0), new Dictionary<string, Tensor>
                {
                    ["lora_down.weight"] = own["lora_A.weight"],
                    ["lora_up.weight"] = own["lora_B.weight"],
                    ["dora_scale"] = lengths.view([-1, .. Enumerable.Repeat(1L, module.Layer.Weight.Shape.Count - 1)]),
                });
            case IA3Config when module.Layer.Bias is null || acting.ChangesInput:
                var factors = own["ia3_l"].flatten() - 1;
                var isByInput = acting.ChangesInput;
                return AdapterEntry.Of(module, null, new Dictionary<string, Tensor>
                {
                    ["weight"] = module.Layer.Kernel.Count == 0 ? factors : factors.view([1, -1, .. module.Layer.Kernel.Select(static _ => 1L)]),
                    [LycorisModule.InputMark] = tensor(isByInput ? 1f : 0f),
                }, isByInput);
            default:
                return acting.ExactFactors() is { } product ? Lora(module, product.A, product.B, product.Scale) : null;
        }
    }

    private static AdapterEntry Lora(DiffusionModule module, Tensor a, Tensor b, double scale)
    {
        var rank = a.size(0);
        return AdapterEntry.Of(module, scale * rank, new Dictionary<string, Tensor>
        {
            ["lora_down.weight"] = a.reshape([rank, -1, .. module.Layer.Kernel]),
            ["lora_up.weight"] = b.reshape([b.size(0), rank, .. module.Layer.Kernel.Select(static _ => 1L)]),
        });
    }

    /// <summary>Parameters that the adapter has copies of, as differences from the base's.</summary>
    private static void TakeCopies(Adapter adapter, Dictionary<Parameter, DiffusionModule> byWeight, List<AdapterEntry> entries, ICollection<AdapterFormatLoss> lost)
    {
        foreach (var group in adapter.Overlays.SelectMany(static overlay => overlay.Targets.Select(target => (target, overlay.Copy))).GroupBy(static entry => entry.target.Module))
        {
            var weight = group.Key.Parameters.FirstOrDefault(static parameter => parameter.Name == "weight");
            if (weight is null || !byWeight.TryGetValue(weight, out var module) || entries.Exists(entry => entry.Module == module))
            {
                lost.AddRange(group.Select(static entry => new AdapterFormatLoss($"{entry.target.Path}.{entry.target.Parameter.Name}", "no format holds a trained copy beside another change, or of such a module")));
                continue;
            }

            var isNorm = module.Layer is NormWeight;
            var tensors = new Dictionary<string, Tensor> { [isNorm ? "w_norm" : "diff"] = zeros([.. weight.Shape], device: weight.Device) };
            foreach (var (target, copy) in group)
            {
                var key = target.Parameter.Name == "bias" ? isNorm ? "b_norm" : "diff_b" : isNorm ? "w_norm" : "diff";
                tensors[key] = copy.Data.to(ScalarType.Float32) - target.Parameter.Unpacked(ScalarType.Float32);
            }

            entries.Add(AdapterEntry.Of(module, null, tensors));
        }
    }

    private static void AddRange(this ICollection<AdapterFormatLoss> lost, IEnumerable<AdapterFormatLoss> more)
    {
        foreach (var loss in more)
        {
            lost.Add(loss);
        }
    }
}
