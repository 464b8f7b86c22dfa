using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// QALoRA (Xu et al. 2023): the first factor sees the sums of groups of neighbouring inputs, as many as the groups that a quantised weight has, so that the change is one number
/// a group and could join its zero points. PEFT scales the groups' means by their number.
/// </summary>
/// <param name="layer">The layer.</param>
/// <param name="config">The configuration.</param>
internal sealed class QaLoraLayer(IAdaptable layer, LoraConfig config) : LoraLayer(layer, config, blocksA: config.QaLoraGroupSize)
{
    private readonly int _size = config.QaLoraGroupSize;

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    protected override Tensor FactorA(ScalarType type) => base.FactorA(type).repeat_interleave(_size, 1) * ((double)A.Shape[1] / _size);
}
