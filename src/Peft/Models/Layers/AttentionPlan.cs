using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// Who may see whom in one pass, made once for all layers: queries in blocks, each with the range of keys any of them may see and
/// a mask where not all may see all. Causal; with padding, packed examples and a sliding window where the pass has them.
/// </summary>
public sealed class AttentionPlan
{
    private const int BlockSize = 128;

    private AttentionPlan(IReadOnlyList<Block> blocks)
    {
        Blocks = blocks;
    }

    /// <summary>Queries that are treated together.</summary>
    /// <param name="Query">First query, counted from the pass's own first position.</param>
    /// <param name="Queries">Number of queries.</param>
    /// <param name="Key">First key any of them sees, counted from the first cached position.</param>
    /// <param name="Keys">Number of keys from there on.</param>
    /// <param name="Mask">True where a query may not see a key, bool, broadcast to [rows, kv heads, heads a kv head, queries, masked keys]; null where all see all.</param>
    /// <param name="MaskedKeys">To how many of the last keys the mask applies.</param>
    public readonly record struct Block(long Query, long Queries, long Key, long Keys, Tensor? Mask, long MaskedKeys);

    /// <summary>The blocks in order.</summary>
    public IReadOnlyList<Block> Blocks { get; }

    /// <summary>Lays a pass out. Masks live as long as its tape, or without one in the caller's dispose scope.</summary>
    /// <param name="context">The forward pass.</param>
    /// <param name="device">Device of the hidden states.</param>
    /// <param name="window">How many of the last positions a query sees, its own included; null for all.</param>
    public static AttentionPlan For(ForwardContext context, Device device, long? window = null)
    {
        var cached = context.Cache?.Length ?? 0;
        var plain = context.AttentionMask is null && context.Packing is null && (window is null || window >= cached + context.Length);
        using var scope = NewDisposeScope();
        var blocks = plain ? Causal(cached, context.Length, device) : Masked(context, cached, device, window);
        foreach (var block in blocks)
        {
            if (block.Mask is { } mask)
            {
                mask.MoveToOuterDisposeScope();
                context.Tape?.Share(mask);
            }
        }

        return new AttentionPlan(blocks);
    }

    private static Block[] Causal(long cached, long length, Device device)
    {
        var size = Math.Min(BlockSize, length);
        var triangle = size == 1 ? null : ones([size, size], ScalarType.Bool, device).triu(1);
        return [.. Ranges(length).Select(range =>
        {
            var mask = range.Count == size ? triangle : triangle!.narrow(0, 0, range.Count).narrow(1, 0, range.Count);
            return new Block(range.Start, range.Count, 0, cached + range.Start + range.Count, range.Count == 1 ? null : mask, range.Count);
        })];
    }

    private static Block[] Masked(ForwardContext context, long cached, Device device, long? window)
    {
        var segments = context.Packing is { } packing ? Segments(packing, context.Length) : null;
        var segmentIds = segments is null ? null : tensor(segments, ScalarType.Int64, device);
        var hidden = context.AttentionMask?.to(device).eq(0);
        return [.. Ranges(context.Length).Select(range =>
        {
            var end = cached + range.Start + range.Count;
            var first = segments is null ? 0 : FirstKey(segments, range.Start);
            first = window is { } size ? Math.Max(first, cached + range.Start - size + 1) : first;
            var queries = arange(cached + range.Start, end, ScalarType.Int64, device).unsqueeze(1);
            var keys = arange(first, end, ScalarType.Int64, device).unsqueeze(0);
            var mask = keys.gt(queries);
            mask = window is { } seen ? mask.logical_or_(keys.le(queries.sub(seen))) : mask;
            mask = mask.unsqueeze(0);
            if (segmentIds is not null)
            {
                mask = mask.logical_or(
                    segmentIds.narrow(1, range.Start, range.Count).unsqueeze(2).ne(segmentIds.narrow(1, first, end - first).unsqueeze(1)));
            }

            mask = hidden is null ? mask : mask.logical_or(hidden.narrow(1, first, end - first).unsqueeze(1));
            return new Block(range.Start, range.Count, first, end - first, mask.unsqueeze(1).unsqueeze(1), end - first);
        })];
    }

    private static IEnumerable<(long Start, long Count)> Ranges(long length)
    {
        for (long start = 0; start < length; start += BlockSize)
        {
            yield return (start, Math.Min(BlockSize, length - start));
        }
    }

    /// <summary>The example each position belongs to, numbered within its row; what follows the last one is one more.</summary>
    private static long[,] Segments(IReadOnlyList<IReadOnlyList<int>> packing, long length)
    {
        var segments = new long[packing.Count, length];
        for (var row = 0; row < packing.Count; row++)
        {
            long at = 0;
            for (var example = 0; example <= packing[row].Count; example++)
            {
                var end = example < packing[row].Count ? Math.Min(length, at + packing[row][example]) : length;
                for (; at < end; at++)
                {
                    segments[row, at] = example;
                }
            }
        }

        return segments;
    }

    private static long FirstKey(long[,] segments, long query)
    {
        var first = query;
        for (var row = 0; row < segments.GetLength(0); row++)
        {
            var at = query;
            while (at > 0 && segments[row, at - 1] == segments[row, query])
            {
                at--;
            }

            first = Math.Min(first, at);
        }

        return first;
    }
}
