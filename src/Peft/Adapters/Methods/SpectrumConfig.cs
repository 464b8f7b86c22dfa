using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods;

/// <summary>What the configurations of FourierFT and WaveFT share: a few coefficients of a transform of each layer's change, at places chosen at random. Defaults are PEFT's.</summary>
public abstract record SpectrumConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("gpt2", ["mlp.c_proj"]), ("gpt_bigcode", ["mlp.c_proj"]));

    /// <summary>Coefficients of each layer.</summary>
    public abstract int FrequencyCount { get; init; }

    /// <summary>Multiplies the change.</summary>
    public abstract double Scaling { get; init; }

    /// <summary>Seed of the choice of places, which is the same in all layers of one shape and number.</summary>
    [ConfigField("random_loc_seed", Parameter = "FrequencySeed", Minimum = 0)]
    public int FrequencySeed { get; init; } = 777;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Other numbers of coefficients for some modules: a table of name, path ending or regular expression of whole name parts to number; the first that matches counts.</summary>
    [ConfigField("n_frequency_pattern", Parameter = "FrequencyPattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> FrequencyPattern { get; init; } = new Dictionary<string, int>();

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        var count = CountOf(layer, adapter);
        return count <= layer.Weight.Count ? CreateLayer(layer, count) : throw new PeftException(
            "RankInvalid", $"n_frequency is {count}, more than the {layer.Weight.Count} coefficients that the change of '{layer.Path}' has.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a lower n_frequency, or one for this layer by n_frequency_pattern.",
        };
    }

    /// <summary>How many coefficients a layer has.</summary>
    private protected virtual long CountOf(IAdaptable layer, LayerwiseAdapter adapter) => TargetMatcher.Lookup(FrequencyPattern, layer.Path, FrequencyCount);

    /// <summary>Makes what sits on a layer.</summary>
    private protected abstract LayerAdapter CreateLayer(IAdaptable layer, long count);
}
