using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Peanut;

/// <summary>PEANuT (Zhong et al. 2024): a small network computes the change from the weight itself. Defaults are PEFT's.</summary>
public sealed record PeanutConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PEANUT";

    /// <summary>Width of the network.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>Pairs of layers between the network's first and last.</summary>
    [ConfigField("depth", Minimum = 0)]
    public int Depth { get; init; }

    /// <summary>The network's activation, by the name that configurations of models give it.</summary>
    [ConfigField("act_fn", Parameter = "Activation")]
    public string ActivationName { get; init; } = "relu";

    /// <summary>Multiplies the change.</summary>
    [ConfigField("scaling", IsReal = true)]
    public double Scaling { get; init; } = 1;

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        _ = new Activation(ActivationName);
    }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new PeanutLayer(layer, this) : throw KindRefused(layer);
}

/// <summary>The network of one layer, which maps each column of the weight (what one input has at all outputs) to that of the change.</summary>
internal sealed class PeanutLayer : MatrixLayer
{
    private readonly PeanutConfig _config;
    private readonly Activation _activation;
    private readonly Parameter _first;
    private readonly Parameter _last;
    private readonly Parameter[] _inner;

    /// <summary>Makes the network, by shape alone: [rank, out], [rank, rank] twice for each pair, and [out, rank].</summary>
    public PeanutLayer(IAdaptable layer, PeanutConfig config)
        : base(layer)
    {
        _config = config;
        _activation = new Activation(config.ActivationName);
        _first = new Parameter("weight", [config.Rank, layer.Outputs]);
        _last = new Parameter("weight", [layer.Outputs, config.Rank]);
        _inner = [.. Enumerable.Range(0, 2 * config.Depth).Select(_ => new Parameter("weight", [config.Rank, config.Rank]))];
        Parameters =
        [
            new("peanut_A.weight", _first), new("peanut_B.weight", _last),
            .. _inner.Select((weight, index) => new LayerParameter(
                index < config.Depth ? $"peanut_encoders.{index}.weight" : $"peanut_decoders.{index - config.Depth}.weight", weight)),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var weight in _inner.Prepend(_first).Append(_last))
        {
            weight.Assign(weight == _last && _config.StartAtZero
                ? RandomTensors.Zeros(weight.Shape, Layer.Device)
                : RandomTensors.Uniform(weight.Shape, 1 / Math.Sqrt(weight.Shape[1]), generator, Layer.Device));
        }
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var depth = _config.Depth;
        var values = _activation.Apply(bare().t().mm(_first.Data.t().to(type)));
        Stack<Tensor> kept = [];
        for (var i = 0; i < depth; i++)
        {
            kept.Push(values);
            values = _activation.Apply(values.mm(_inner[i].Data.t().to(type)));
        }

        for (var i = depth; i < 2 * depth; i++)
        {
            values = _activation.Apply(values.mm(_inner[i].Data.t().to(type))) + kept.Pop();
        }

        return _last.Data.to(type).mm(values.t()) * _config.Scaling;
    }
}
