using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// Virtual positions that are learnt like tokens (context-aware prompt tuning): each is of a type, and types that are multiples of four are labels.
/// The row's own labels come last; each label type before them counts less by a factor.
/// </summary>
/// <param name="Ids">What each virtual position says, int64 [virtual positions].</param>
/// <param name="Types">Its type, int64 [virtual positions]; 0 for none.</param>
/// <param name="LastType">The largest type.</param>
/// <param name="Decay">By how much a label type counts less than the next one; 1 for alike.</param>
public sealed record PromptLoss(Tensor Ids, Tensor Types, long LastType, double Decay)
{
    private const long LabelType = 4;

    /// <summary>Labels of all positions, and how much each counts.</summary>
    /// <param name="labels">Labels of the tokens, int64 [rows, tokens].</param>
    /// <param name="tokenTypes">Types of the tokens, int64 [rows, tokens]; null where all are labels of one type.</param>
    /// <returns>int64 and float32 [rows, positions]; a position that isn't learnt has the label -100.</returns>
    public (Tensor Labels, Tensor Weights) Of(Tensor labels, Tensor? tokenTypes)
    {
        ArgumentNullException.ThrowIfNull(labels);
        var own = tokenTypes is null ? full_like(labels, LabelType + LastType) : where(tokenTypes.gt(0), tokenTypes.add(LastType), tokenTypes);
        var types = cat([InFront(Types), own], 1);
        var isLabel = types.gt(0).logical_and(types.remainder(LabelType).eq(0));
        var all = cat([InFront(Ids), labels], 1).masked_fill(isLabel.logical_not(), -100);

        // How many label types of the row come after a position's own; the first position is predicted by none and says nothing of them.
        var last = tokenTypes is null ? LabelType + LastType : own.max().item<long>();
        var seen = where(isLabel, types, zeros_like(types)).narrow(1, 1, types.size(1) - 1);
        var present = zeros([types.size(0), last + 1], ScalarType.Float32, types.device).scatter(1, seen, ones_like(seen, ScalarType.Float32));
        var later = present.sum(1, keepdim: true).sub(present.cumsum(1));
        return (all, full_like(later, Decay).pow(later).gather(1, types));

        Tensor InFront(Tensor values) => values.unsqueeze(0).expand(labels.size(0), values.size(0));
    }
}
