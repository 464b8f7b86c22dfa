using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>LyCORIS's (IA)³: change = weight ∘ factors, one for each output or for each input, zero at the start. The bias stays as it is.</summary>
internal sealed class ScaledWeight : MatrixLayer
{
    private readonly bool _isByInput;
    private readonly Parameter _factors;
    private readonly Parameter _mark;

    /// <summary>Makes the factors, by shape alone.</summary>
    public ScaledWeight(IAdaptable layer, bool isByInput)
        : base(layer)
    {
        _isByInput = isByInput;
        var count = isByInput ? layer.Inputs / layer.ChannelGroups : layer.Outputs;
        _factors = new Parameter("weight", layer.Kernel.Count == 0 ? [count] : [1, count, .. layer.Kernel.Select(static _ => 1L)]);
        _mark = new Parameter("on_input", []);
        Parameters = [new("weight", _factors), new("on_input", _mark, ParameterRole.Frozen)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _factors.Assign(RandomTensors.Zeros(_factors.Shape, Layer.Device));
        _mark.Assign(tensor(_isByInput ? 1f : 0f, device: Layer.Device));
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var (weight, factors) = (bare(), _factors.Data.flatten().to(type));
        return _isByInput
            ? (weight.reshape(Layer.Outputs, factors.size(0), -1) * factors.unsqueeze(1)).reshape(weight.shape)
            : weight * factors.unsqueeze(1);
    }
}
