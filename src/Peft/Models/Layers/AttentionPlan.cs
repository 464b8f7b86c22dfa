using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// Who may see whom in one pass, made once for all layers: queries in blocks, each with the range of keys any of them may see and
/// a mask where not all may see all: before itself, both ways or across to another sequence, with padding, packed examples and a window
/// where the pass has them.
/// </summary>
public sealed class AttentionPlan
{
    private const int BlockSize = 128;

    private AttentionPlan(IReadOnlyList<Block> blocks, bool isPlain)
    {
        Blocks = blocks;
        IsPlain = isPlain;
    }

    /// <summary>Queries that are treated together.</summary>
    /// <param name="Query">First query, counted from the pass's own first position.</param>
    /// <param name="Queries">Number of queries.</param>
    /// <param name="Key">First key any of them sees, counted from the first cached position.</param>
    /// <param name="Keys">Number of keys from there on.</param>
    /// <param name="Mask">True where a query may not see a key, bool, [queries, masked keys] or [rows or 1, 1, 1, queries, masked keys]; null where all see all.</param>
    /// <param name="MaskedKeys">To how many of the last keys the mask applies.</param>
    public readonly record struct Block(long Query, long Queries, long Key, long Keys, Tensor? Mask, long MaskedKeys);

    /// <summary>Whether each position sees all before it and itself, and nothing is hidden.</summary>
    public bool IsPlain { get; }

    /// <summary>Whether every query sees every key.</summary>
    public bool SeesAll { get; private init; }

    /// <summary>Whether some queries see nothing: they weigh all keys alike, and no gradient passes through their scores.</summary>
    public bool HasBlindQueries { get; private init; }

    /// <summary>The blocks in order.</summary>
    public IReadOnlyList<Block> Blocks { get; }

    /// <summary>
    /// Each position sees those before it and itself, with whatever stands in the cache and in a prefix. Masks live as long as the pass's
    /// tape, or without one in the caller's dispose scope.
    /// </summary>
    /// <param name="context">The forward pass.</param>
    /// <param name="device">Device of the hidden states.</param>
    /// <param name="window">How many of the last positions a query sees, its own included; null for all.</param>
    public static AttentionPlan Causal(ForwardContext context, Device device, long? window = null)
    {
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        var plain = context.AttentionMask is null && context.Packing is null && (window is null || window >= context.Start + context.Length);
        return Kept(context, plain
            ? Triangles(context.Start, context.Length, device)
            : Masked(new Layout(context, context.Start, context.AttentionMask, window, IsCausal: true), context.Start + context.Length, device), plain);
    }

    /// <summary>Each position sees those before it and after it.</summary>
    /// <param name="context">The forward pass.</param>
    /// <param name="device">Device of the hidden states.</param>
    /// <param name="reach">How many positions a query sees to each side; null for all.</param>
    /// <param name="paddingSeesNothing">Whether padding sees nothing (and weighs all positions alike) instead of what tokens see.</param>
    public static AttentionPlan BothWays(ForwardContext context, Device device, long? reach = null, bool paddingSeesNothing = false)
    {
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        var blocks = Masked(new Layout(context, context.Start, context.AttentionMask, reach, IsCausal: false) { HidesQueries = paddingSeesNothing }, context.Start + context.Length, device);
        var seesAll = context.AttentionMask is null && context.Packing is null && reach is null;
        return Kept(context, blocks, isPlain: false, seesAll, hasBlindQueries: paddingSeesNothing && context.AttentionMask is not null);
    }

    /// <summary>Each position sees another sequence whole, such as a decoder what its encoder gave.</summary>
    /// <param name="context">The forward pass of the queries.</param>
    /// <param name="device">Device of the hidden states.</param>
    /// <param name="keys">Length of the other sequence.</param>
    /// <param name="mask">1 where it has tokens, int64 [rows, keys]; null for everywhere.</param>
    public static AttentionPlan Across(ForwardContext context, Device device, long keys, Tensor? mask)
    {
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        return Kept(context, Masked(new Layout(context with { Packing = null }, 0, mask, Window: null, IsCausal: false), keys, device), isPlain: false, seesAll: mask is null);
    }

    private static AttentionPlan Kept(ForwardContext context, Block[] blocks, bool isPlain, bool seesAll = false, bool hasBlindQueries = false)
    {
        foreach (var block in blocks)
        {
            if (block.Mask is { } mask)
            {
                mask.MoveToOuterDisposeScope();
                context.Tape?.Share(mask);
            }
        }

        var plan = new AttentionPlan(blocks, isPlain) { SeesAll = seesAll, HasBlindQueries = hasBlindQueries };
        context.Cache?.Steps.Give(plan);
        return plan;
    }

    private static Block[] Triangles(long before, long length, Device device)
    {
        var size = Math.Min(BlockSize, length);
        var triangle = size == 1 ? null : ones([size, size], ScalarType.Bool, device).triu(1);
        return [.. Ranges(length).Select(range =>
        {
            var mask = range.Count == size ? triangle : triangle!.narrow(0, 0, range.Count).narrow(1, 0, range.Count);
            return new Block(range.Start, range.Count, 0, before + range.Start + range.Count, range.Count == 1 ? null : mask, range.Count);
        })];
    }

    private static Block[] Masked(Layout layout, long total, Device device)
    {
        var (context, before, tokens, window, isCausal) = layout;
        var segments = context.Packing is { } packing ? Segments(packing, context.Length) : null;
        var segmentIds = segments is null ? null : tensor(segments, ScalarType.Int64, device);
        var hidden = tokens?.to(device).eq(0);
        return [.. Ranges(context.Length).Select(range =>
        {
            var (start, end) = (before + range.Start, before + range.Start + range.Count);
            var first = isCausal && segments is not null ? FirstKey(segments, range.Start) : 0;
            first = window is { } size ? Math.Max(first, start - size + (isCausal ? 1 : 0)) : first;
            var last = isCausal ? end : Math.Min(total, end + (window ?? total));
            var queries = arange(start, end, ScalarType.Int64, device).unsqueeze(1);
            var keys = arange(first, last, ScalarType.Int64, device).unsqueeze(0);
            var mask = isCausal ? keys.gt(queries) : null;
            if (window is { } seen)
            {
                mask = Either(mask, isCausal ? keys.le(queries.sub(seen)) : keys.sub(queries).abs().gt(seen));
            }

            mask = mask?.unsqueeze(0);
            if (segmentIds is not null)
            {
                mask = Either(mask, segmentIds.narrow(1, range.Start, range.Count).unsqueeze(2).ne(segmentIds.narrow(1, first, last - first).unsqueeze(1)));
            }

            mask = hidden is null ? mask : Either(mask, hidden.narrow(1, first, last - first).unsqueeze(1));
            mask = hidden is null || !layout.HidesQueries ? mask : Either(mask, hidden.narrow(1, start, range.Count).unsqueeze(2));
            mask = mask?.expand(mask.size(0), range.Count, last - first).contiguous();
            return new Block(range.Start, range.Count, first, last - first, mask?.unsqueeze(1).unsqueeze(1), last - first);
        })];
    }

    private static Tensor Either(Tensor? mask, Tensor other) => mask is null ? other : mask.logical_or(other);

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

    /// <summary>What decides who sees whom.</summary>
    private sealed record Layout(ForwardContext Context, long Before, Tensor? Tokens, long? Window, bool IsCausal)
    {
        public bool HidesQueries { get; init; }
    }
}
