using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Conversion;

/// <summary>What a layer's LoRA is to hold.</summary>
/// <param name="Layer">The layer.</param>
/// <param name="Part">Its factors.</param>
internal sealed record LayerChange(IAdaptable Layer, LowRankPart Part);

/// <summary>A LoRA adapter of changes that were computed, not trained.</summary>
internal static class LowRankAdapter
{
    /// <summary>The configuration for changes: strength 1, the rank that most layers have, the others' by pattern.</summary>
    /// <param name="own">The configuration of the LoRA adapter that the factors are those of, whose scale they need; null for a scale of 1.</param>
    /// <param name="changes">At least one.</param>
    /// <param name="model">The model.</param>
    public static LoraConfig Configure(LoraConfig? own, IReadOnlyList<LayerChange> changes, PeftModel model)
    {
        if (own is not null)
        {
            // A start that left its part out of the base stands beside what was trained, so that every rank is twice what it was.
            var times = changes[0].Part.Rank / own.ForLayer(changes[0].Layer).Rank;
            return times == 1 ? own : own.Widened(times) with { Initialisation = LoraInitialisation.Zero, Corda = null, LoraGa = null };
        }

        var rank = changes.GroupBy(static change => change.Part.Rank).OrderByDescending(static group => group.Count()).ThenByDescending(static group => group.Key).First().Key;
        var others = changes.Where(change => change.Part.Rank != rank).DistinctBy(static change => change.Layer.Path).ToDictionary(static change => change.Layer.Path, static change => change.Part.Rank);
        return new LoraConfig
        {
            Rank = rank,
            Alpha = rank,
            RankPattern = others,
            AlphaPattern = others.ToDictionary(static entry => entry.Key, static entry => (double)entry.Value),
            TargetModules = ModuleNames.Exactly([.. changes.Select(static change => change.Layer.Module)], model.Base),
        };
    }

    /// <summary>Gives a fresh adapter the changes, and its copies of the base's parameters their values.</summary>
    /// <param name="made">The adapter, made of the configuration.</param>
    /// <param name="changes">What its layers are to hold.</param>
    /// <param name="copies">Values of parameters that it has copies of; a copy without one keeps the base's.</param>
    public static PeftAdapter Fill(PeftAdapter made, IReadOnlyList<LayerChange> changes, IReadOnlyDictionary<Parameter, Tensor> copies)
    {
        using var scope = NewDisposeScope();
        var byWeight = changes.ToDictionary(static change => change.Layer.Weight, static change => change.Part);
        foreach (var (layer, adapter) in made.Adapter.Layers)
        {
            var (factors, part) = (adapter.LowRank(1)!, byWeight[layer.Weight]);
            factors.A.Assign(part.A.reshape([.. factors.A.Shape]).clone());
            factors.B.Assign(part.B.reshape([.. factors.B.Shape]).clone());
        }

        foreach (var overlay in made.Adapter.Overlays)
        {
            if (overlay.Targets.Select(target => copies.GetValueOrDefault(target.Parameter)).FirstOrDefault(static copy => copy is not null) is { } value)
            {
                overlay.Copy.Assign(value.to(overlay.Copy.DataType).clone());
            }
        }

        made.Conversion = ConversionReport.Of([.. changes.Select(static change => (change.Layer.Path, change.Part))]);
        return made;
    }

    /// <summary>Refuses a model without weights.</summary>
    public static void RefuseStructure(PeftModel model)
    {
        if (model.IsStructureOnly)
        {
            throw new PeftException("WeightsNotLoaded", $"'{model.Name}' has no weights to compare: only its structure was loaded.") { Target = model.Name };
        }
    }

    /// <summary>Refuses layers whose LoRA isn't one product.</summary>
    public static void RefuseKind(IAdaptable layer)
    {
        if (layer.Experts > 1 || layer.ChannelGroups > 1)
        {
            throw new NotSupportedByPeftException("AdapterConversionNotSupported", $"'{layer.Path}' is a {layer.Module.ClassName}, whose change can't be turned into LoRA's two factors.") { Target = layer.Path };
        }
    }
}
