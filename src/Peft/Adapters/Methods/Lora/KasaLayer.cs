using System.Text.Json.Serialization;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>What the regularisers of KaSA weigh, which PEFT leaves to the training script: they are kept and act on nothing here either.</summary>
/// <param name="Beta">Weight of the squares of the trained singular values.</param>
/// <param name="Gamma">Weight of the factors' distance from orthogonal ones.</param>
public sealed record KasaSettings([property: JsonPropertyName("beta")] double Beta = 1e-4, [property: JsonPropertyName("gamma")] double Gamma = 1e-3);

/// <summary>
/// KaSA (Wang et al. 2024): the change has trained singular values of its own, B · diag · A, and takes the place of the smallest of the weight's,
/// which the base lacks until the adapter is removed.
/// </summary>
internal sealed class KasaLayer : LoraLayer
{
    private readonly Parameter _values;

    /// <summary>Makes the factors, by shape alone.</summary>
    public KasaLayer(IAdaptable layer, LoraConfig config)
        : base(layer, config)
    {
        _values = new Parameter("lora_diag", [A.Shape[0]]);
        Parameters = [.. base.Parameters, new("lora_diag", _values)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override Func<Tensor, Tensor> BaseEdit => weight =>
    {
        var (u, s, vh) = linalg.svd(Layer.ToMatrix(weight).to(ScalarType.Float32), fullMatrices: false);
        var kept = s.size(0) - A.Shape[0];
        return Layer.FromMatrix(u.narrow(1, 0, kept).mul(s.narrow(0, 0, kept)).mm(vh.narrow(0, 0, kept))).to(weight.dtype);
    };

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        base.Initialise(generator);
        _values.Assign(RandomTensors.Normal(_values.Shape, 1, generator, Layer.Device));
    }

    /// <summary>Values between the factors are no product of two parameters.</summary>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    public override LowRank? Fused(float weight) => base.LowRank(weight) is { } change ? change with { Inner = _values } : null;

    /// <inheritdoc/>
    protected override Tensor FactorB(ScalarType type) => base.FactorB(type) * _values.Data.to(type);
}
