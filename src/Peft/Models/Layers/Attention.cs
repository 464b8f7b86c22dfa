using Peft.Engine;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>The sizes of an attention.</summary>
/// <param name="Heads">Query heads.</param>
/// <param name="KeyValueHeads">Key and value heads; a divisor of <paramref name="Heads"/>, each serves a group of query heads (Ainslie et al. 2023).</param>
/// <param name="HeadSize">Width of a head.</param>
/// <param name="Scale">Multiplies scores; 1/sqrt(head size) usually.</param>
public sealed record AttentionShape(long Heads, long KeyValueHeads, long HeadSize, double Scale)
{
    /// <summary>Query heads that share a key and value head.</summary>
    public long Group => Heads / KeyValueHeads;

    /// <summary>Query, key and value heads together.</summary>
    public long AllHeads => Heads + (2 * KeyValueHeads);
}

/// <summary>
/// Causal attention over rotated queries and keys, in blocks of queries that see only the keys they may. Attention weights are never
/// kept: the backward pass forms them again block by block.
/// </summary>
public static class Attention
{
    /// <summary>Runs attention.</summary>
    /// <param name="projections">Queries, keys and values side by side, [rows · length, all heads · head size].</param>
    /// <param name="shape">The sizes.</param>
    /// <param name="rotary">Turns queries and keys; null for attention without positions.</param>
    /// <param name="plan">Who may see whom.</param>
    /// <param name="layer">The layer's index in the cache.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, heads · head size].</returns>
    public static Tensor Forward(
        Tensor projections, AttentionShape shape, RotaryTables? rotary, AttentionPlan plan, int layer, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(shape);
        using var scope = NewDisposeScope();
        long rows = context.Rows, length = context.Length;
        var heads = projections.view(rows, length, shape.AllHeads, shape.HeadSize);
        var rotatable = heads.narrow(2, 0, shape.Heads + shape.KeyValueHeads);
        var rotated = rotary is null ? rotatable.clone() : rotary.Rotate(rotatable);
        var queries = rotated.narrow(2, 0, shape.Heads).mul_(shape.Scale);
        var keys = rotated.narrow(2, shape.Heads, shape.KeyValueHeads).transpose(1, 2);
        var values = heads.narrow(2, shape.Heads + shape.KeyValueHeads, shape.KeyValueHeads).transpose(1, 2);
        (keys, values) = context.Cache is { } cache ? cache.Append(layer, keys, values) : (keys.contiguous(), values.contiguous());
        var piece = new AttentionPiece(shape, rotary, plan, rows, length, queries, Flat(keys), Flat(values));
        var output = piece.Run();
        if (context.Tape is { } tape)
        {
            piece.KeepForBackward();
            tape.Record(piece, [projections], [output], trains: false);
        }

        return output.MoveToOuterDisposeScope();
    }

    // [rows, kv heads, keys, size] as a batch of matrices.
    private static Tensor Flat(Tensor heads) => heads.flatten(0, 1);
}

/// <summary>Attention in blocks, forward and backward.</summary>
internal sealed class AttentionPiece(
    AttentionShape shape, RotaryTables? rotary, AttentionPlan plan, long rows, long length, Tensor queries, Tensor keys, Tensor values) : Piece
{
    private Tensor queries = queries;
    private Tensor keys = keys;
    private Tensor values = values;

    /// <summary>[rows · length, heads · head size].</summary>
    public Tensor Run()
    {
        var all = empty([rows, length, shape.KeyValueHeads, shape.Group, shape.HeadSize], queries.dtype, queries.device);
        foreach (var block in plan.Blocks)
        {
            using var scope = NewDisposeScope();
            var (_, weights) = Weights(block);
            var part = weights.bmm(values.narrow(1, block.Key, block.Keys));
            all.narrow(1, block.Query, block.Queries).copy_(
                part.view(rows, shape.KeyValueHeads, shape.Group, block.Queries, shape.HeadSize).permute(0, 3, 1, 2, 4));
        }

        return all.view(rows * length, shape.Heads * shape.HeadSize);
    }

    public void KeepForBackward()
    {
        queries = Keep(queries);
        keys = Keep(keys);
        values = Keep(values);
    }

    public override void Backward(PieceGradients gradients)
    {
        var g = gradients.Output().contiguous();
        g = g.view(rows, length, shape.KeyValueHeads, shape.Group, shape.HeadSize);
        var result = empty([rows, length, shape.AllHeads, shape.HeadSize], g.dtype, g.device);
        var gq = result.narrow(2, 0, shape.Heads).view(rows, length, shape.KeyValueHeads, shape.Group, shape.HeadSize);
        var gk = zeros_like(keys);
        var gv = zeros_like(values);
        foreach (var block in plan.Blocks)
        {
            using var scope = NewDisposeScope();
            var (q, weights) = Weights(block);
            var own = Grouped(g, block);
            var k = keys.narrow(1, block.Key, block.Keys);
            gv.narrow(1, block.Key, block.Keys).add_(weights.transpose(1, 2).bmm(own));
            var gs = AttentionKernels.SoftmaxGradient(weights, own.bmm(values.narrow(1, block.Key, block.Keys).transpose(1, 2)));
            gq.narrow(1, block.Query, block.Queries).copy_(
                gs.bmm(k).view(rows, shape.KeyValueHeads, shape.Group, block.Queries, shape.HeadSize).permute(0, 3, 1, 2, 4));
            gk.narrow(1, block.Key, block.Keys).add_(gs.transpose(1, 2).bmm(q));
        }

        Collect(result, gk, gv);
        gradients.Add(0, result.view(rows * length, shape.AllHeads * shape.HeadSize));
    }

    private void Collect(Tensor result, Tensor gk, Tensor gv)
    {
        result.narrow(2, 0, shape.Heads).mul_(shape.Scale);
        result.narrow(2, shape.Heads, shape.KeyValueHeads).copy_(Unflat(gk));
        result.narrow(2, shape.Heads + shape.KeyValueHeads, shape.KeyValueHeads).copy_(Unflat(gv));
        if (rotary is not null)
        {
            var rotated = result.narrow(2, 0, shape.Heads + shape.KeyValueHeads);
            rotated.copy_(rotary.TurnBack(rotated));
        }
    }

    private Tensor Unflat(Tensor heads) => heads.view(rows, shape.KeyValueHeads, length, shape.HeadSize).transpose(1, 2);

    /// <summary>The block's queries and their attention weights: [rows · kv heads, group · queries, head size] and [.., keys].</summary>
    private (Tensor Queries, Tensor Weights) Weights(AttentionPlan.Block block)
    {
        var q = Grouped(queries.view(rows, length, shape.KeyValueHeads, shape.Group, shape.HeadSize), block);
        var scores = q.bmm(keys.narrow(1, block.Key, block.Keys).transpose(1, 2));
        return (q, AttentionKernels.Softmax(scores, block.Mask, block.Queries, rows));
    }

    // [rows, length, kv heads, group, n] to [rows · kv heads, group · queries, n].
    private Tensor Grouped(Tensor all, AttentionPlan.Block block) => all.narrow(1, block.Query, block.Queries)
        .permute(0, 2, 3, 1, 4)
        .reshape(rows * shape.KeyValueHeads, shape.Group * block.Queries, -1);
}
