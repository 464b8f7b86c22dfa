using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>What a part of a projection holds.</summary>
internal enum HeadPart
{
    Queries,
    Keys,
    Values,
}

/// <summary>How one projection lays out queries, keys and values: in groups of equal width, each with a part of every kind.</summary>
/// <param name="Groups">Number of groups.</param>
/// <param name="Parts">What stands in a group, in order, with its width.</param>
internal sealed record HeadOrder(long Groups, IReadOnlyList<(HeadPart Part, long Width)> Parts)
{
    private static readonly HeadPart[] s_wanted = [HeadPart.Queries, HeadPart.Keys, HeadPart.Values];

    private readonly bool _isSideBySide = Groups == 1 && Parts.Select(static part => part.Part).SequenceEqual(s_wanted);

    /// <summary>Each key and value head stands behind the queries that it serves (GPT-NeoX, BLOOM, Falcon).</summary>
    public static HeadOrder ByKeyValueHead(AttentionShape shape) => new(
        shape.KeyValueHeads, [(HeadPart.Queries, shape.Group * shape.HeadSize), (HeadPart.Keys, shape.HeadSize), (HeadPart.Values, shape.HeadSize)]);

    /// <summary>All queries, then all keys, then all values (GPT-2, MPT).</summary>
    public static HeadOrder SideBySide(AttentionShape shape) => new(1,
    [
        (HeadPart.Queries, shape.Heads * shape.HeadSize),
        (HeadPart.Keys, shape.KeyValueHeads * shape.HeadSize),
        (HeadPart.Values, shape.KeyValueHeads * shape.HeadSize),
    ]);

    /// <summary>Puts all queries, then all keys, then all values side by side.</summary>
    /// <param name="x">[rows, width].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>Of the same shape.</returns>
    public Tensor Forward(Tensor x, ForwardContext context)
    {
        if (_isSideBySide)
        {
            return x;
        }

        using var scope = NewDisposeScope();
        var groups = x.view(x.size(0), Groups, -1);
        var y = cat([.. s_wanted.Select(wanted =>
        {
            var index = Index(wanted);
            return groups.narrow(2, Parts.Take(index).Sum(static part => part.Width), Parts[index].Width).flatten(1);
        })], 1);
        if (context.Recorder is { } recorder)
        {
            LayerSteps.Copy(recorder, Stretches(x, y), y, x);
        }

        context.Tape?.Record(new OrderPiece(this), [x], [y], trains: false);
        return y.MoveToOuterDisposeScope();
    }

    private List<CopiedStretch> Stretches(Tensor x, Tensor y)
    {
        var stretches = new List<CopiedStretch>();
        var width = Parts.Sum(static part => part.Width);
        long target = 0;
        foreach (var wanted in s_wanted)
        {
            var index = Index(wanted);
            var (start, own) = (Parts.Take(index).Sum(static part => part.Width), Parts[index].Width);
            for (long group = 0; group < Groups; group++, target += own)
            {
                stretches.Add(new CopiedStretch(x, (group * width) + start, y, target, own));
            }
        }

        return stretches;
    }

    private int Index(HeadPart wanted) => Parts.TakeWhile(part => part.Part != wanted).Count();

    private Tensor Back(Tensor y)
    {
        long start = 0;
        var parts = new Tensor[Parts.Count];
        foreach (var wanted in s_wanted)
        {
            var index = Index(wanted);
            parts[index] = y.narrow(1, start, Groups * Parts[index].Width).reshape(y.size(0), Groups, -1);
            start += Groups * Parts[index].Width;
        }

        return cat(parts, 2).flatten(1);
    }

    private sealed class OrderPiece(HeadOrder order) : Piece
    {
        public override void Backward(PieceGradients gradients) => gradients.Add(0, order.Back(gradients.Output()));
    }
}
