using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.LoHa;

/// <summary>LoHa (Hyeon-Woo et al. 2022): the change is the element-wise product of two low-rank matrices. Defaults are PEFT's.</summary>
public sealed record LoHaConfig : LycorisConfig
{
    /// <inheritdoc/>
    public override string PeftType => "LOHA";

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    internal override bool ScalesRankDropout => true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) => layer switch
    {
        Linear => new LoHaLayer(layer, this),
        Embedding => throw KindRefused(layer),
        _ => throw KindNotSupported(layer),
    };
}

/// <summary>The factors of one layer: change = (w1_a · w1_b) ∘ (w2_a · w2_b).</summary>
internal sealed class LoHaLayer : LycorisLayer
{
    private readonly LoHaConfig _config;
    private readonly Parameter[] _factors;

    /// <summary>Makes the factors, by shape alone: [out, rank] and [rank, in], twice.</summary>
    public LoHaLayer(IAdaptable layer, LoHaConfig config)
        : base(layer, config)
    {
        _config = config;
        var rank = config.ForLayer(layer.Path).Rank;
        string[] names = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];
        _factors = [.. names.Select((name, index) => new Parameter(name, index % 2 == 0 ? [layer.Outputs, rank] : [rank, layer.Inputs]))];
        Parameters = [.. _factors.Select(static factor => new LayerParameter(factor.Name, factor))];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var factor in _factors)
        {
            factor.Assign(_config.StartAtZero && factor == _factors[^1] ? Zeros(factor) : Uniform(factor, generator));
        }
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type)
    {
        var first = _factors[0].Data.mm(_factors[1].Data);
        return (first * _factors[2].Data.mm(_factors[3].Data)).to(type);
    }
}
