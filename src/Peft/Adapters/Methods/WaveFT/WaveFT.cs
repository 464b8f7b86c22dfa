using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.WaveFT;

/// <summary>WaveFT (Bilican et al. 2025): a few coefficients of the change's wavelet transform are trained, at places chosen at random. Defaults are PEFT's.</summary>
public sealed record WaveFTConfig : SpectrumConfig
{
    /// <inheritdoc/>
    public override string PeftType => "WAVEFT";

    /// <inheritdoc/>
    [ConfigField("n_frequency", Parameter = "FrequencyCount", Minimum = 1, ErrorId = "RankInvalid")]
    public override int FrequencyCount { get; init; } = 2592;

    /// <inheritdoc/>
    [ConfigField("scaling", IsReal = true)]
    public override double Scaling { get; init; } = 25;

    /// <summary>The wavelet: one of Daubechies', <c>db1</c> (Haar's) to <c>db10</c>, a symlet, <c>sym2</c> to <c>sym10</c>, or a coiflet, <c>coif1</c> to <c>coif3</c>.</summary>
    [ConfigField("wavelet_family", Parameter = "Wavelet")]
    public string WaveletName { get; init; } = "db1";

    /// <summary>Whether the change is the inverse transform of the coefficients; otherwise it is these themselves, a few entries of the weight.</summary>
    [ConfigField("use_idwt", Parameter = "InverseTransform")]
    public bool TransformsBack { get; init; } = true;

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>waveft_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "waveft_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Gives larger layers more coefficients, by their share of all adapted weights; patterns then don't count.</summary>
    [ConfigField("proportional_parameters", Parameter = "Proportional")]
    public bool IsProportional { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, with a deviation of 0.01.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        _ = Wavelet.LowPass(WaveletName);
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new WaveFTAdapter(name, this);

    private protected override long CountOf(IAdaptable layer, LayerwiseAdapter adapter) =>
        ((WaveFTAdapter)adapter).ShareOf(layer) ?? base.CountOf(layer, adapter);

    private protected override LayerAdapter CreateLayer(IAdaptable layer, long count) => new WaveFTLayer(layer, this, count);
}

/// <summary>WaveFT on a model.</summary>
public sealed class WaveFTAdapter(string name, WaveFTConfig config) : LayerwiseAdapter(name, config)
{
    private readonly WaveFTConfig _config = config;
    private double _total;
    private int _layers;

    /// <summary>How many coefficients a layer has by its share of all adapted weights; null where shares don't count.</summary>
    internal long? ShareOf(IAdaptable layer) => _config.IsProportional
        ? Math.Max(1, (long)Math.Round(layer.Weight.Count / _total * (_config.FrequencyCount * (long)_layers)))
        : null;

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        _total = targets.Sum(static layer => (double)layer.Weight.Count);
        _layers = targets.Count;
    }
}

/// <summary>The coefficients of one layer. Each spreads over a small patch of the change, so that few make it cheaply, without the rest of the transform.</summary>
internal sealed class WaveFTLayer : MatrixLayer
{
    private readonly WaveFTConfig _config;
    private readonly double[] _lowPass;
    private readonly Parameter _coefficients;
    private readonly Parameter _places;
    private readonly Parameter _shares;

    /// <summary>Makes the coefficients, by shape alone, and where in the change, counted row by row, what share of each goes: [n, patch].</summary>
    public WaveFTLayer(IAdaptable layer, WaveFTConfig config, long count)
        : base(layer)
    {
        _config = config;
        _lowPass = config.TransformsBack ? Wavelet.LowPass(config.WaveletName) : [1];
        _coefficients = new Parameter("waveft_spectrum", [count]);
        _places = new Parameter("places", [count, _lowPass.Length * _lowPass.Length], ScalarType.Int64);
        _shares = new Parameter("shares", _places.Shape);
        Parameters =
        [
            new("waveft_spectrum", _coefficients),
            new("waveft_indices", _places, ParameterRole.Derived), new("waveft_shares", _shares, ParameterRole.Derived),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _coefficients.Assign(_config.StartAtZero
            ? RandomTensors.Zeros(_coefficients.Shape, Layer.Device)
            : RandomTensors.Normal(_coefficients.Shape, 0.01, generator, Layer.Device));
        using var scope = NewDisposeScope();
        var chosen = RandomTensors.Places(Layer.Weight.Count, _coefficients.Count, _config.FrequencySeed, CPU).data<long>().ToArray();
        var rows = new WaveletAxis(Layer.Outputs, _lowPass);
        var columns = new WaveletAxis(Layer.Inputs, _lowPass);
        List<long> places = [];
        List<float> shares = [];
        foreach (var place in chosen)
        {
            var (row, column) = (place / Layer.Inputs, place % Layer.Inputs);

            // The quarter of the transform that stands to the right is the one of high frequencies along the rows' axis, and the lower one that along columns.
            var (isDown, isRight) = (rows.IsHigh(row), columns.IsHigh(column));
            foreach (var (y, ofRow) in rows.Spread(row, isRight))
            {
                foreach (var (x, ofColumn) in columns.Spread(column, isDown))
                {
                    var isInside = y >= 0 && y < Layer.Outputs && x >= 0 && x < Layer.Inputs;
                    places.Add(isInside ? (y * Layer.Inputs) + x : 0);
                    shares.Add(isInside ? (float)(ofRow * ofColumn) : 0);
                }
            }
        }

        _places.Assign(tensor(places.ToArray()).view([.. _places.Shape]).to(Layer.Device).MoveToOuterDisposeScope());
        _shares.Assign(tensor(shares.ToArray()).view([.. _shares.Shape]).to(Layer.Device).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => true;

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var values = (_shares.Data * _coefficients.Data.unsqueeze(1)).flatten();
        var change = zeros([Layer.Weight.Count], ScalarType.Float32, Layer.Device).index_add(0, _places.Data.flatten(), values, 1);
        return (change.view(Layer.Outputs, Layer.Inputs) * _config.Scaling).to(type);
    }
}
