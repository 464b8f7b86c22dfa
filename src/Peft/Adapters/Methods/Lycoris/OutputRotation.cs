using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>
/// LyCORIS's rotations of a weight's outputs, with a factor for each output where they are rescaled: Diag-OFT turns blocks of consecutive rows, BOFT (Liu et
/// al. 2023) turns butterflies in stages. At another strength than 1 each rotation R is R · strength + (1 - strength); the factors stay whole.
/// </summary>
internal sealed class OutputRotation : MatrixLayer
{
    private readonly double _limit;
    private readonly Parameter _blocks;
    private readonly Parameter? _factors;

    /// <summary>Makes the rotations, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="blocks">[blocks, size, size] for Diag-OFT, [stages, blocks, size, size] for BOFT.</param>
    /// <param name="constraint">Limit of the skew-symmetric matrices' common length, for each output; 0 for none.</param>
    /// <param name="isRescaled">Whether outputs have factors.</param>
    public OutputRotation(IAdaptable layer, IReadOnlyList<long> blocks, double constraint, bool isRescaled)
        : base(layer)
    {
        _limit = constraint * layer.Outputs;

        // Blocks that don't cover the outputs fit no layer: then the tensors don't fit what is made.
        var covers = blocks.Count is 3 or 4 && blocks[^1] == blocks[^2] && blocks[^3] * blocks[^2] == layer.Outputs;
        _blocks = new Parameter("oft_blocks", covers ? blocks : [1, layer.Outputs, layer.Outputs]);
        _factors = isRescaled ? new Parameter("rescale", [layer.Outputs, .. Enumerable.Repeat(1L, layer.Kernel.Count + 1)]) : null;
        Parameters = _factors is null ? [new("oft_blocks", _blocks)] : [new("oft_blocks", _blocks), new("rescale", _factors)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _blocks.Assign(RandomTensors.Zeros(_blocks.Shape, Layer.Device));
        _factors?.Assign(ones([.. _factors.Shape], device: Layer.Device));
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare) => ChangeAt(1, type, bare);

    /// <inheritdoc/>
    protected override Tensor ChangeAt(float strength, ScalarType type, Func<Tensor> bare)
    {
        var weight = bare().to(ScalarType.Float32);
        var rotations = Rotations(strength);
        var turned = _blocks.Shape.Count == 3
            ? rotations.transpose(1, 2).bmm(weight.view(_blocks.Shape[0], _blocks.Shape[1], -1)).view(weight.shape)
            : Butterflies(rotations, weight);
        return ((_factors is null ? turned : turned * _factors.Data.flatten().unsqueeze(1)) - weight).to(type);
    }

    /// <summary>Cayley's rotations (I + Q)(I - Q)⁻¹ of the blocks, one behind the other.</summary>
    private Tensor Rotations(float strength)
    {
        var size = _blocks.Shape[^1];
        var blocks = _blocks.Data.view(-1, size, size);
        var skew = blocks - blocks.transpose(1, 2);
        if (_limit > 0)
        {
            skew = skew * (_limit / (skew.square().sum().sqrt() + 1e-8)).clamp_max(1);
        }

        var rotations = BlockRotation.Cayley(skew.neg());
        return strength == 1f ? rotations : (rotations * strength) + (eye(size, device: blocks.device) * (1 - strength));
    }

    /// <summary>Stage i mixes rows that lie 2^i halves of a block apart.</summary>
    private Tensor Butterflies(Tensor rotations, Tensor weight)
    {
        var (stages, count, size) = (_blocks.Shape[0], _blocks.Shape[1], _blocks.Shape[^1]);
        var columns = weight.size(1);
        for (var stage = 0; stage < stages; stage++)
        {
            var apart = (1L << stage) * (size / 2);
            var gathered = weight.view(-1, 2, apart, columns).transpose(1, 2).reshape(count, size, columns);
            var turned = rotations.narrow(0, stage * count, count).bmm(gathered);
            weight = turned.view(-1, apart, 2, columns).transpose(1, 2).reshape(weight.shape);
        }

        return weight;
    }
}
