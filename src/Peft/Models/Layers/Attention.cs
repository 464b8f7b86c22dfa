using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>The sizes of an attention, and what is done to its scores.</summary>
/// <param name="Heads">Query heads.</param>
/// <param name="KeyValueHeads">Key and value heads; a divisor of <paramref name="Heads"/>, each serves a group of query heads (Ainslie et al. 2023).</param>
/// <param name="HeadSize">Width of a query's and a key's head.</param>
/// <param name="Scale">Multiplies scores; 1/sqrt(head size) usually.</param>
public sealed record AttentionShape(long Heads, long KeyValueHeads, long HeadSize, double Scale)
{
    /// <summary>Query heads that share a key and value head.</summary>
    public long Group => Heads / KeyValueHeads;

    /// <summary>Query, key and value heads together, where all have one size.</summary>
    public long AllHeads => Heads + (2 * KeyValueHeads);

    /// <summary>Width of a value's head.</summary>
    public long ValueSize { get; init; } = HeadSize;

    /// <summary>Scores become cap · tanh(scores / cap) (Gemma 2's <c>attn_logit_softcapping</c>); null for none.</summary>
    public double? SoftCap { get; init; }

    /// <summary>Probability with which an attention weight is dropped in training.</summary>
    public double Dropout { get; init; }
}

/// <summary>What a layer adds to its attention's scores.</summary>
/// <param name="Bias">
/// Added to scores after scaling and capping, [rows or 1, heads, queries or 1, keys]; in training known to the tape, so that it may be
/// trained (relative positions) or computed from queries and keys. Null for none.
/// </param>
/// <param name="Sinks">One more score a head, [heads], that takes its share of the softmax and gives no value (gpt-oss); null for none.</param>
public readonly record struct ScoreTerms(Tensor? Bias = null, Parameter? Sinks = null);

/// <summary>
/// Attention over rotated queries and keys, in blocks of queries that see only the keys they may. Attention weights are never
/// kept: the backward pass forms them again block by block.
/// </summary>
public static class Attention
{
    /// <summary>Runs attention over projections that stand side by side, with one head size for all.</summary>
    /// <param name="projections">Queries, keys and values side by side, [rows · length, all heads · head size].</param>
    /// <param name="shape">The sizes.</param>
    /// <param name="rotary">Turns queries and keys; null for attention without positions.</param>
    /// <param name="plan">Who may see whom.</param>
    /// <param name="layer">The layer's index in the cache and in a prefix; null where keys and values are complete as they come.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="terms">What is added to the scores.</param>
    /// <returns>[rows · length, heads · head size].</returns>
    public static Tensor Forward(
        Tensor projections, AttentionShape shape, RotaryTables? rotary, AttentionPlan plan, int? layer, ForwardContext context, ScoreTerms terms = default)
    {
        ArgumentNullException.ThrowIfNull(shape);
        using var scope = NewDisposeScope();
        if (rotary is null && FlashAttention.Serves(projections, shape, plan, context, terms))
        {
            return FlashAttention.Run(projections, shape, context).MoveToOuterDisposeScope();
        }

        var heads = projections.view(context.Rows, context.Length, shape.AllHeads, shape.HeadSize);
        var call = new AttentionCall(shape, rotary, plan, context.Rows, context.Length, context.Length, IsFused: true);
        var (queries, keys) = Turned(heads, shape, rotary, isKept: context.Tape is not null);
        var parts = (queries, keys, heads.narrow(2, shape.Heads + shape.KeyValueHeads, shape.KeyValueHeads));
        return Run(call, [projections], parts, layer, context, terms).MoveToOuterDisposeScope();
    }

    /// <summary>Runs attention over queries, keys and values of their own sizes and lengths.</summary>
    /// <param name="queries">[rows · length, heads · head size].</param>
    /// <param name="keys">[rows · keys, key and value heads · head size].</param>
    /// <param name="values">[rows · keys, key and value heads · value size].</param>
    /// <param name="shape">The sizes.</param>
    /// <param name="rotary">Turns queries and keys; null where they are turned already, or need not be.</param>
    /// <param name="plan">Who may see whom.</param>
    /// <param name="layer">The layer's index in the cache and in a prefix; null where keys and values are complete as they come.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="terms">What is added to the scores.</param>
    /// <param name="areStored">Whether a cache has these keys and values already: another layer put them there under this index.</param>
    /// <returns>[rows · length, heads · value size].</returns>
    public static Tensor Forward(
        Tensor queries,
        Tensor keys,
        Tensor values,
        AttentionShape shape,
        RotaryTables? rotary,
        AttentionPlan plan,
        int? layer,
        ForwardContext context,
        ScoreTerms terms = default,
        bool areStored = false)
    {
        ArgumentNullException.ThrowIfNull(shape);
        using var scope = NewDisposeScope();
        if (rotary is null && FlashAttention.Serves(queries, shape, plan, context, terms))
        {
            return FlashAttention.Run(queries, keys, values, shape, context).MoveToOuterDisposeScope();
        }

        var count = keys.size(0) / context.Rows;
        var q = queries.view(context.Rows, context.Length, shape.Heads, shape.HeadSize);
        var k = keys.view(context.Rows, count, shape.KeyValueHeads, shape.HeadSize);
        var v = values.view(context.Rows, count, shape.KeyValueHeads, shape.ValueSize);
        var parts = rotary is null ? (q.clone(), k, v) : (rotary.Rotate(q), rotary.Rotate(k), v);
        var call = new AttentionCall(shape, rotary, plan, context.Rows, context.Length, count, IsFused: false) { AreStored = areStored };
        return Run(call, [queries, keys, values], parts, layer, context, terms).MoveToOuterDisposeScope();
    }

    /// <summary>Runs attention over keys and values that stand for the whole of a text, such as an encoder's; not for training.</summary>
    /// <param name="queries">[rows · length, heads · head size].</param>
    /// <param name="stored">Keys and values, [rows, kv heads, keys, size] each, contiguous.</param>
    /// <param name="shape">The sizes.</param>
    /// <param name="plan">Who may see whom.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, heads · value size].</returns>
    internal static Tensor OverStored(Tensor queries, TensorState stored, AttentionShape shape, AttentionPlan plan, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (keys, values) = (stored.Values[0], stored.Values[1]);
        var own = queries.view(context.Rows, context.Length, shape.Heads, shape.HeadSize).clone();
        var call = new AttentionCall(shape, null, plan, context.Rows, context.Length, keys.size(2), IsFused: false) { AreStored = true };
        return Run(call, [queries], (own, keys.transpose(1, 2), values.transpose(1, 2)), null, context, default, stored).MoveToOuterDisposeScope();
    }

    // Keys are laid out anew for the product with queries. Where queries are kept for the backward pass, they don't hold the keys' memory with theirs.
    private static (Tensor Queries, Tensor Keys) Turned(Tensor heads, AttentionShape shape, RotaryTables? rotary, bool isKept)
    {
        var (queries, keys) = (heads.narrow(2, 0, shape.Heads), heads.narrow(2, shape.Heads, shape.KeyValueHeads));
        if (rotary is null)
        {
            return (queries.clone(), keys);
        }

        if (isKept)
        {
            return (rotary.Rotate(queries), rotary.Rotate(keys));
        }

        var rotated = rotary.Rotate(heads.narrow(2, 0, shape.Heads + shape.KeyValueHeads));
        return (rotated.narrow(2, 0, shape.Heads), rotated.narrow(2, shape.Heads, shape.KeyValueHeads));
    }

    private static Tensor Run(
        AttentionCall call,
        Tensor[] inputs,
        (Tensor Queries, Tensor Keys, Tensor Values) parts,
        int? layer,
        ForwardContext context,
        ScoreTerms terms,
        TensorState? constant = null)
    {
        var queries = LinearProduct.Cast(context.Narrowed(parts.Queries), parts.Queries.dtype).mul_(call.Shape.Scale);
        queries = call.Rotary?.QueryScale is { } growth ? queries.mul_(growth) : queries;
        var (keys, values) = (parts.Keys.transpose(1, 2), parts.Values.transpose(1, 2));
        (keys, values) = layer is { } index && context.Cache is { } cache
            ? call.AreStored
                ? cache.State<KeyValueState>(index).Stored(cache.Length + call.Length)
                : cache.State<KeyValueState>(index).Append(keys, values, cache.Length)
            : (keys.contiguous(), values.contiguous());
        if (layer is { } at && context.Prompt?.KeyValues?[at] is { } prefix)
        {
            if (prefix.Keys.size(1) != call.Shape.KeyValueHeads || prefix.Keys.size(3) != call.Shape.HeadSize || prefix.Values.size(3) != call.Shape.ValueSize)
            {
                throw new PeftException("PromptDoesNotFit", FormattableString.Invariant(
                    $"The prefix has {prefix.Keys.size(1)} heads of width {prefix.Keys.size(3)}, but the keys of layer {at} have {call.Shape.KeyValueHeads} of width {call.Shape.HeadSize}."))
                {
                    RecommendedAction = "Use prompt tuning, or LoRA: heads that share keys and values leave a prefix no place that PEFT's files have.",
                };
            }

            inputs = [.. inputs, prefix.Keys, prefix.Values];
            call = call with { Prefix = prefix.Keys.size(2), PrefixRows = prefix.Keys.size(0) };
            keys = cat([Prefix(prefix.Keys, keys), keys], 2);
            values = cat([Prefix(prefix.Values, values), values], 2);
        }

        var sinks = terms.Sinks?.Effective(context);
        var piece = new AttentionPiece(call, queries, keys.flatten(0, 1), values.flatten(0, 1), terms.Bias, sinks, context);
        var output = piece.Run();
        if (context.Recorder is { } recorder)
        {
            var state = constant ?? (layer is { } place ? (LayerState?)context.Cache?.State<KeyValueState>(place) : null);
            LayerSteps.Attention(recorder, call, inputs, output, piece.IsOneQuery() ? state : null, (terms.Bias, sinks?.Data));
        }

        if (context.Tape is { } tape)
        {
            piece.KeepForBackward();
            tape.Record(piece, terms.Bias is null ? inputs : [.. inputs, terms.Bias], [output], sinks?.IsTrained == true);
        }

        return output;
    }

    private static Tensor Prefix(Tensor prefix, Tensor like) => prefix.to(like.dtype).expand(like.size(0), prefix.size(1), prefix.size(2), prefix.size(3));
}

/// <summary>The geometry of one attention.</summary>
/// <param name="Shape">The sizes.</param>
/// <param name="Rotary">Turned queries and keys; null for nothing.</param>
/// <param name="Plan">Who sees whom.</param>
/// <param name="Rows">Rows of the batch.</param>
/// <param name="Length">Queries of a row.</param>
/// <param name="Keys">Keys of a row in this pass, without the cache's and the prefix's.</param>
/// <param name="IsFused">Whether queries, keys and values came as one tensor.</param>
internal sealed record AttentionCall(AttentionShape Shape, RotaryTables? Rotary, AttentionPlan Plan, long Rows, long Length, long Keys, bool IsFused)
{
    /// <summary>Whether a cache has keys and values of this pass already.</summary>
    public bool AreStored { get; init; }

    /// <summary>Keys that stand in front of all others.</summary>
    public long Prefix { get; init; }

    /// <summary>Rows of the prefix: the batch's, or one for all.</summary>
    public long PrefixRows { get; init; }
}
