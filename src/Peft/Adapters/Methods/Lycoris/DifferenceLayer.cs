using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>What is added to a weight and a bias as it is: LyCORIS's <c>full</c>, and what it adds to norms.</summary>
internal sealed class DifferenceLayer : LayerAdapter
{
    private readonly Parameter _weight;
    private readonly Parameter? _bias;

    /// <summary>Makes both, by shape alone.</summary>
    /// <param name="layer">A layer or a norm.</param>
    /// <param name="weight">The key of what is added to the weight.</param>
    /// <param name="bias">The key of what is added to the bias; null for nothing.</param>
    public DifferenceLayer(IAdaptable layer, string weight, string? bias)
        : base(layer)
    {
        _weight = new Parameter(weight, layer.Weight.Shape);
        _bias = bias is null ? null : new Parameter(bias, [layer.Outputs]);
        Parameters = _bias is null ? [new(weight, _weight)] : [new(weight, _weight), new(_bias.Name, _bias)];
    }

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override string? MergeObstacle => _bias is not null && Layer.Bias is null ? "it changes a bias, which the layer hasn't" : null;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _weight.Assign(RandomTensors.Zeros(_weight.Shape, Layer.Device));
        _bias?.Assign(RandomTensors.Zeros(_bias.Shape, Layer.Device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var change = Layer.Apply(x, _weight.Data.to(y.dtype), _bias?.Data.to(y.dtype)).view_as(y);
        return y + (call.Weight == 1f ? change : change * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        current.Weight.add_(_weight.Data.to(current.Weight.dtype));
        if (_bias is not null)
        {
            current.Bias!.add_(_bias.Data.to(current.Bias.dtype));
        }

        return current;
    }
}
