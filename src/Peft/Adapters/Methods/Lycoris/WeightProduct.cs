using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>LyCORIS's GLoRA: change = alpha / rank · (W · a1 · a2 + b1 · b2), the first product over the weight's inputs.</summary>
internal sealed class WeightProduct : MatrixLayer
{
    private readonly double _scale;
    private readonly Parameter[] _factors;

    /// <summary>Makes the factors, by shape alone: [in, rank], [rank, in], [out, rank] and [rank, in, kernel].</summary>
    public WeightProduct(IAdaptable layer, int rank, double scale)
        : base(layer)
    {
        _scale = scale;
        var inputs = layer.Inputs / layer.ChannelGroups;
        long[] ones = [.. layer.Kernel.Select(static _ => 1L)];
        _factors =
        [
            new Parameter("a1.weight", [inputs, rank, .. ones]), new Parameter("a2.weight", [rank, inputs, .. ones]),
            new Parameter("b1.weight", [layer.Outputs, rank, .. ones]), new Parameter("b2.weight", [rank, inputs, .. layer.Kernel]),
        ];
        Parameters = [.. _factors.Select(static factor => new LayerParameter(factor.Name, factor))];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var factor in _factors)
        {
            factor.Assign(factor.Name.EndsWith("1.weight", StringComparison.Ordinal) ? RandomTensors.Zeros(factor.Shape, Layer.Device)
                : RandomTensors.Uniform(factor.Shape, 1 / Math.Sqrt(factor.Count / factor.Shape[0]), generator, Layer.Device));
        }
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        Tensor Factor(int index) => _factors[index].Data.flatten(1).to(type);
        var weight = bare();
        var byInput = weight.reshape(Layer.Outputs, _factors[0].Shape[0], -1).transpose(1, 2);
        var own = byInput.reshape(-1, byInput.size(2)).mm(Factor(0).mm(Factor(1))).view(byInput.shape).transpose(1, 2).reshape(weight.shape);
        return (own + Factor(2).mm(Factor(3))) * _scale;
    }
}
