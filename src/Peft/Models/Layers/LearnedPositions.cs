using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Vectors of positions from a table that is trained.</summary>
internal static class LearnedPositions
{
    /// <summary>The vectors of a pass's positions.</summary>
    /// <param name="table">The table.</param>
    /// <param name="context">The forward pass: its positions, or 0, 1, … from where it starts.</param>
    /// <param name="device">Device of the hidden states.</param>
    /// <param name="offset">Rows at the table's beginning that no position uses.</param>
    /// <returns>[rows · length, width].</returns>
    /// <exception cref="PeftException"><c>InputTooLong</c>: a position beyond the table.</exception>
    public static Tensor Forward(Embedding table, ForwardContext context, Device device, long offset = 0)
    {
        using var scope = NewDisposeScope();
        var positions = context.Positions?.to(device)
            ?? arange(context.Start, context.Start + context.Length, ScalarType.Int64, device).expand(context.Rows, context.Length);
        var last = context.Positions is null ? context.Start + context.Length - 1
            : positions.device_type == DeviceType.CPU ? positions.max().item<long>() : 0;
        if (last + offset >= table.Count)
        {
            throw new PeftException("InputTooLong", $"The input has {last + 1} positions, but '{table.Path}' holds {table.Count - offset}.")
            {
                Target = last,
                RecommendedAction = "Shorten the input, or generate fewer tokens.",
            };
        }

        return table.Forward(offset == 0 ? positions : positions.add(offset), context).MoveToOuterDisposeScope();
    }

    /// <summary>Adds the vectors of a pass's positions to those of its tokens, and drops elements of the sum.</summary>
    /// <param name="table">The table.</param>
    /// <param name="dropout">What drops elements.</param>
    public static Func<Tensor, ForwardContext, Tensor> AddedAndDropped(Embedding table, Dropout dropout) => (x, context) =>
        dropout.Forward(ResidualSum.Forward(x, Forward(table, context, x.device), context), context);

    /// <summary>Positions of whole rows, cached ones included, counted over what is no padding.</summary>
    /// <param name="mask">1 for tokens, 0 for padding, [rows, length].</param>
    /// <returns>int64 [rows, length]; -1 for padding.</returns>
    public static Tensor Counted(Tensor mask)
    {
        using var scope = NewDisposeScope();
        var whole = mask.to(ScalarType.Int64);
        return whole.cumsum(1).mul_(whole).sub_(1).MoveToOuterDisposeScope();
    }
}
