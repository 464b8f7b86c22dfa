using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.FourierFT;

/// <summary>FourierFT (Gao et al. 2024): a few coefficients of the change's Fourier transform are trained, at frequencies chosen at random. Defaults are PEFT's.</summary>
public sealed record FourierFTConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "FOURIERFT";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("gpt2", ["mlp.c_proj"]), ("gpt_bigcode", ["mlp.c_proj"]));

    /// <summary>Coefficients of each layer.</summary>
    [ConfigField("n_frequency", Parameter = "FrequencyCount", Minimum = 1, ErrorId = "RankInvalid")]
    public int FrequencyCount { get; init; } = 1000;

    /// <summary>Multiplies the change.</summary>
    [ConfigField("scaling", IsReal = true)]
    public double Scaling { get; init; } = 150;

    /// <summary>Seed of the choice of frequencies, which is the same in all layers of one shape.</summary>
    [ConfigField("random_loc_seed", Parameter = "FrequencySeed", Minimum = 0)]
    public int FrequencySeed { get; init; } = 777;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>fourier_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "fourier_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Other numbers of coefficients for some modules: a table of name, path ending or regular expression of whole name parts to number; the first that matches counts.</summary>
    [ConfigField("n_frequency_pattern", Parameter = "FrequencyPattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> FrequencyPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Whether the change starts at zero instead of at random.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        var count = TargetMatcher.Lookup(FrequencyPattern, layer.Path, FrequencyCount);
        return count <= layer.Weight.Count ? new FourierFTLayer(layer, this, count) : throw new PeftException(
            "RankInvalid", $"n_frequency is {count}, more than the {layer.Weight.Count} frequencies that the change of '{layer.Path}' has.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a lower n_frequency, or one for this layer by n_frequency_pattern.",
        };
    }
}

/// <summary>The coefficients of one layer.</summary>
internal sealed class FourierFTLayer : MatrixLayer
{
    private readonly FourierFTConfig _config;
    private readonly Parameter _coefficients;
    private readonly Parameter _places;

    /// <summary>Makes the coefficients, by shape alone, and the places of their frequencies in the transform, row by row.</summary>
    public FourierFTLayer(IAdaptable layer, FourierFTConfig config, long count)
        : base(layer)
    {
        _config = config;
        _coefficients = new Parameter("fourierft_spectrum", [count]);
        _places = new Parameter("fourierft_indices", [count], ScalarType.Int64);
        Parameters = [new("fourierft_spectrum", _coefficients), new("fourierft_indices", _places, ParameterRole.Derived)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _coefficients.Assign(_config.StartAtZero
            ? RandomTensors.Zeros(_coefficients.Shape, Layer.Device)
            : RandomTensors.Normal(_coefficients.Shape, 1, generator, Layer.Device));
        _places.Assign(RandomTensors.Places(Layer.Weight.Count, _places.Count, _config.FrequencySeed, Layer.Device));
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var transform = zeros([Layer.Weight.Count], ScalarType.Float32, Layer.Device).index_copy(0, _places.Data, _coefficients.Data);
        return (fft.ifft2(transform.view(Layer.Outputs, Layer.Inputs)).real * _config.Scaling).to(type);
    }
}
