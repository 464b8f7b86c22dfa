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
        Linear or Convolution => new LoHaLayer(layer, this),
        Embedding => throw KindRefused(layer),
        _ => throw KindNotSupported(layer),
    };
}

/// <summary>The factors of one layer: change = (w1_a · w1_b) ∘ (w2_a · w2_b), each with a core between them where a convolution has a decomposition of its own.</summary>
internal sealed class LoHaLayer : LycorisLayer
{
    private readonly LoHaConfig _config;
    private readonly Parameter[] _factors;
    private readonly Parameter[] _cores;

    /// <summary>Makes the factors, by shape alone: [out, rank] and [rank, columns], twice; with a core [rank, out], [rank, in] and [rank, rank, kernel].</summary>
    public LoHaLayer(IAdaptable layer, LoHaConfig config)
        : base(layer, config)
    {
        _config = config;
        var rank = config.ForLayer(layer.Path).Rank;
        string[] names = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];
        var core = config.Core(layer, rank);
        _factors = [.. names.Select((name, index) => new Parameter(name, index % 2 == 1 ? [rank, core is null ? layer.Columns : layer.Weight.Shape[1]] : core is null ? [layer.Outputs, rank] : [rank, layer.Outputs]))];
        _cores = core is null ? [] : [new Parameter("hada_t1", core), new Parameter("hada_t2", core)];
        Parameters = [.. _factors.Concat(_cores).Select(static factor => new LayerParameter(factor.Name, factor))];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var factor in _factors.Concat(_cores))
        {
            factor.Assign(_config.StartAtZero && factor == _factors[^1] ? Zeros(factor) : Uniform(factor, generator));
        }
    }

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => !context.IsTraining || (_config.ModuleDropout == 0 && _config.RankDropout == 0);

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type)
    {
        return (Matrix(0) * Matrix(1)).to(type);

        Tensor Matrix(int which)
        {
            var (a, b) = (_factors[2 * which].Data, _factors[(2 * which) + 1].Data);
            return _cores.Length == 0 ? a.mm(b) : WithCore(_cores[which].Data, a, b);
        }
    }
}
