using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Attention of a decoder over what its encoder gave.</summary>
internal static class CrossAttention
{
    /// <summary>Runs it. With a cache, the encoder's keys and values are formed once.</summary>
    /// <param name="queries">[rows · length, heads · head size].</param>
    /// <param name="keys">Makes keys of the encoder's output.</param>
    /// <param name="values">Makes values of it.</param>
    /// <param name="encoded">[rows · encoder length, width].</param>
    /// <param name="shape">The sizes.</param>
    /// <param name="plan">Who sees which of the encoder's positions.</param>
    /// <param name="layer">An index in the cache that no other layer has.</param>
    /// <param name="context">The decoder's pass.</param>
    /// <returns>[rows · length, heads · head size].</returns>
    public static Tensor Forward(
        Tensor queries, Linear keys, Linear values, Tensor encoded, AttentionShape shape, AttentionPlan plan, int layer, ForwardContext context)
    {
        if (context.Cache is not { } cache || context.Tape is not null)
        {
            return Attention.Forward(queries, keys.Forward(encoded, context), values.Forward(encoded, context), shape, null, plan, null, context);
        }

        var state = cache.State<TensorState>(layer);
        if (state.Values.Count == 0)
        {
            state.IsConstant = true;
            using var scope = NewDisposeScope();
            state.Replace(Heads(keys, shape.HeadSize), Heads(values, shape.ValueSize));
        }

        return Attention.OverStored(queries, state, shape, plan, context);

        Tensor Heads(Linear layer, long size) => layer.Forward(encoded, context).view(context.Rows, -1, shape.KeyValueHeads, size).transpose(1, 2).contiguous();
    }
}
