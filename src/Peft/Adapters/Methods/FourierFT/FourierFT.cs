using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.FourierFT;

/// <summary>FourierFT (Gao et al. 2024): a few coefficients of the change's Fourier transform are trained, at frequencies chosen at random. Defaults are PEFT's.</summary>
public sealed record FourierFTConfig : SpectrumConfig
{
    /// <inheritdoc/>
    public override string PeftType => "FOURIERFT";

    /// <inheritdoc/>
    [ConfigField("n_frequency", Parameter = "FrequencyCount", Minimum = 1, ErrorId = "RankInvalid")]
    public override int FrequencyCount { get; init; } = 1000;

    /// <inheritdoc/>
    [ConfigField("scaling", IsReal = true)]
    public override double Scaling { get; init; } = 150;

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>fourier_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "fourier_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero instead of at random.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; }

    private protected override LayerAdapter CreateLayer(IAdaptable layer, long count) => new FourierFTLayer(layer, this, count);
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
    public override bool ActsInWeight(ForwardContext context) => true;

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var transform = zeros([Layer.Weight.Count], ScalarType.Float32, Layer.Device).index_copy(0, _places.Data, _coefficients.Data);
        return (fft.ifft2(transform.view(Layer.Outputs, Layer.Inputs)).real * _config.Scaling).to(type);
    }
}
