using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Attention in blocks, forward and backward.</summary>
/// <param name="call">The geometry.</param>
/// <param name="queries">Turned and scaled, [rows, length, heads, head size].</param>
/// <param name="keys">Turned, [rows · kv heads, keys, head size].</param>
/// <param name="values">[rows · kv heads, keys, value size].</param>
/// <param name="bias">Added to scores, [rows or 1, heads, queries or 1, keys], or null.</param>
/// <param name="sinks">[heads], or null.</param>
/// <param name="context">The forward pass.</param>
internal sealed class AttentionPiece(
    AttentionCall call, Tensor queries, Tensor keys, Tensor values, Tensor? bias, Parameter? sinks, ForwardContext context) : Piece
{
    private readonly AttentionShape _shape = call.Shape;

    private readonly bool _drops = call.Shape.Dropout > 0 && context.IsTraining;
    private readonly List<Tensor> _dropped = [];

    // What comes in and goes out; between them stands the type that products are formed in.
    private readonly ScalarType _type = queries.dtype;

    private Tensor _queries = queries.device_type == DeviceType.CPU ? queries : context.Narrowed(queries);
    private Tensor _keys = Rounded(keys, context);
    private Tensor _values = Rounded(values, context);
    private Tensor? _bias = bias;

    /// <summary>[rows · length, heads · value size].</summary>
    public Tensor Run() => LinearProduct.Cast(Form(), _type);

    /// <summary>
    /// Keys and values as narrow products take them; queries are rounded before they are scaled. On the processor these stay float32 once they are rounded: the engine's product gives scores in the type of what it multiplies,
    /// and scores of bfloat16 would be much coarser than those of a kernel that keeps its sums.
    /// </summary>
    private static Tensor Rounded(Tensor x, ForwardContext context) => x.device_type == DeviceType.CPU ? LinearProduct.Cast(context.Narrowed(x), x.dtype) : context.Narrowed(x);

    private Tensor Form()
    {
        if (IsNative())
        {
            return Native(_queries, _keys, _values).reshape(call.Rows * call.Length, _shape.Heads * _shape.ValueSize);
        }

        if (IsSingle())
        {
            var seen = call.Plan.Blocks[0];
            return SingleQueryKernel.Run(_queries, _keys, _values, (seen.Key, seen.Keys), seen.Mask, _bias, sinks?.Data);
        }

        var all = empty([call.Rows, call.Length, _shape.KeyValueHeads, _shape.Group, _shape.ValueSize], _queries.dtype, _queries.device);
        foreach (var block in call.Plan.Blocks)
        {
            using var scope = NewDisposeScope();
            var weights = Weights(block).Weights;
            if (_drops)
            {
                var kept = RandomDraws.Kept(weights, 1 - _shape.Dropout, context.Generator);
                _dropped.Add(context.Tape is null ? kept : KeepOwn(kept));
            }

            var part = Sums(Dropped(weights, _dropped.Count - 1), _values.narrow(1, block.Key, block.Keys));
            all.narrow(1, block.Query, block.Queries).copy_(
                part.view(call.Rows, _shape.KeyValueHeads, _shape.Group, block.Queries, _shape.ValueSize).permute(0, 3, 1, 2, 4));
        }

        return all.view(call.Rows * call.Length, _shape.Heads * _shape.ValueSize);
    }

    /// <summary>Weighted sums of values. Narrow ones are formed as the engine's kernel forms them: of weights beside the largest of their row, rounded.</summary>
    private Tensor Sums(Tensor weights, Tensor values)
    {
        if (!context.Narrows(weights))
        {
            return weights.bmm(values);
        }

        var largest = weights.amax([-1], keepdim: true).clamp_min(float.Epsilon);
        return context.Narrowed(weights.div(largest)).to(weights.dtype).bmm(values).mul_(largest);
    }

    public void KeepForBackward()
    {
        _queries = Keep(_queries);
        _keys = Keep(_keys);
        _values = Keep(_values);
        _bias = _bias is null ? null : Keep(_bias);
    }

    public override void Backward(PieceGradients gradients)
    {
        var g = LinearProduct.Cast(gradients.Output(), _queries.dtype).contiguous();
        if (IsNative())
        {
            NativeBackward(gradients, g);
            return;
        }

        g = g.view(call.Rows, call.Length, _shape.KeyValueHeads, _shape.Group, _shape.ValueSize);
        var result = call.IsFused ? empty([call.Rows, call.Length, _shape.AllHeads, _shape.HeadSize], _type, g.device) : null;
        var gq = result?.narrow(2, 0, _shape.Heads) ?? empty([call.Rows, call.Length, _shape.Heads, _shape.HeadSize], _type, g.device);
        var grouped = gq.view(call.Rows, call.Length, _shape.KeyValueHeads, _shape.Group, _shape.HeadSize);
        var gk = zeros_like(_keys);
        var gv = zeros_like(_values);
        var gb = _bias is not null && gradients.Needs(BiasInput) ? zeros_like(_bias) : null;
        for (var i = 0; i < call.Plan.Blocks.Count; i++)
        {
            using var scope = NewDisposeScope();
            var block = call.Plan.Blocks[i];
            var (q, weights, slope) = Weights(block);
            var own = Grouped(g, block);
            gv.narrow(1, block.Key, block.Keys).add_(Dropped(weights, i).transpose(1, 2).bmm(own));
            var gs = Dropped(own.bmm(_values.narrow(1, block.Key, block.Keys).transpose(1, 2)), i);
            AddSinkGradient(weights, gs, block);
            gs = AttentionKernels.SoftmaxGradient(weights, gs);
            if (call.Plan.HasBlindQueries && block.Mask is { } mask)
            {
                gs.view(call.Rows, _shape.KeyValueHeads, _shape.Group, block.Queries, block.Keys).masked_fill_(mask, 0);
            }

            AddBiasGradient(gb, gs, block);
            gs = slope is null ? gs : gs.mul_(slope);
            grouped.narrow(1, block.Query, block.Queries).copy_(
                gs.bmm(_keys.narrow(1, block.Key, block.Keys)).view(call.Rows, _shape.KeyValueHeads, _shape.Group, block.Queries, _shape.HeadSize).permute(0, 3, 1, 2, 4));
            gk.narrow(1, block.Key, block.Keys).add_(gs.transpose(1, 2).bmm(q));
        }

        gq.mul_(_shape.Scale);
        gq = call.Rotary?.QueryScale is { } growth ? gq.mul_(growth) : gq;
        Collect(gradients, result, gq, gk, gv);
        if (gb is not null)
        {
            gradients.Add(BiasInput, gb);
        }
    }

    /// <summary>Whether it is one new token a row, as texts are continued, without what a recorded step has no operation for.</summary>
    public bool IsOneQuery() => call.Length == 1 && context.Tape is null && !_drops && _shape.SoftCap is null;

    private bool IsSingle() => IsOneQuery() && SingleQueryKernel.ServesBias(_bias) && SingleQueryKernel.ServesBias(sinks?.Data) && SingleQueryKernel.Serves(_queries, _keys, _values);

    /// <summary>
    /// On a GPU the engine's own kernel takes the whole of attention where it is plainly causal, or where queries see all keys: no scores in
    /// memory, and two launches instead of some ten a block.
    /// </summary>
    private bool IsNative() => _queries.device_type != DeviceType.CPU
        && (call.Plan.SeesAll || (call.Plan.IsPlain && (call.Length == 1 || _keys.size(1) == call.Length)))
        && _bias is null
        && sinks is null
        && !_drops
        && _shape.SoftCap is null;

    private Tensor Native(Tensor q, Tensor k, Tensor v) => Operators.GroupedAttention(
        q.transpose(1, 2),
        k.view(call.Rows, _shape.KeyValueHeads, -1, _shape.HeadSize),
        v.view(call.Rows, _shape.KeyValueHeads, -1, _shape.ValueSize),
        causal: call.Plan.IsPlain && call.Length > 1,
        scale: 1).transpose(1, 2);

    /// <summary>Forms the output again, for autograd.</summary>
    private void NativeBackward(PieceGradients gradients, Tensor g)
    {
        Tensor[] leaves;
        using (enable_grad())
        {
            leaves = [.. new[] { _queries, _keys, _values }.Select(static tensor => tensor.detach().requires_grad_(true))];
            var output = Native(leaves[0], leaves[1], leaves[2]);
            autograd.backward([output], [g.view(call.Rows, call.Length, _shape.Heads, _shape.ValueSize)], inputs: leaves);
        }

        var (q, k, v) = (leaves[0].grad!.mul_(_shape.Scale), leaves[1].grad!, leaves[2].grad!);
        Tensor? result = null;
        if (call.IsFused)
        {
            result = empty([call.Rows, call.Length, _shape.AllHeads, _shape.HeadSize], _type, g.device);
            result.narrow(2, 0, _shape.Heads).copy_(q);
        }

        Collect(gradients, result, q, k, v);
    }

    private int BiasInput => (call.IsFused ? 1 : 3) + (call.Prefix > 0 ? 2 : 0);

    /// <summary>Hands the gradients to whoever gave queries, keys and values, and to the prefix.</summary>
    private void Collect(PieceGradients gradients, Tensor? result, Tensor gq, Tensor gk, Tensor gv)
    {
        (gq, gk, gv) = (LinearProduct.Cast(gq, _type), LinearProduct.Cast(gk, _type), LinearProduct.Cast(gv, _type));
        if (call.Prefix > 0)
        {
            AddPrefixGradient(gradients, BiasInput - 2, gk, _shape.HeadSize);
            AddPrefixGradient(gradients, BiasInput - 1, gv, _shape.ValueSize);
        }

        var (k, v) = (Unflat(gk, _shape.HeadSize), Unflat(gv, _shape.ValueSize));
        if (result is null)
        {
            gradients.Add(0, Flat(call.Rotary is null ? gq : call.Rotary.TurnBack(gq)));
            gradients.Add(1, Flat(call.Rotary is null ? k : call.Rotary.TurnBack(k)));
            gradients.Add(2, Flat(v));
            return;
        }

        result.narrow(2, _shape.Heads, _shape.KeyValueHeads).copy_(k);
        result.narrow(2, _shape.Heads + _shape.KeyValueHeads, _shape.KeyValueHeads).copy_(v);
        if (call.Rotary is not null)
        {
            var rotated = result.narrow(2, 0, _shape.Heads + _shape.KeyValueHeads);
            rotated.copy_(call.Rotary.TurnBack(rotated));
        }

        gradients.Add(0, Flat(result));
    }

    private void AddPrefixGradient(PieceGradients gradients, int input, Tensor all, long size)
    {
        var own = all.view(call.Rows, _shape.KeyValueHeads, -1, size).narrow(2, 0, call.Prefix);
        gradients.Add(input, call.PrefixRows == call.Rows ? own.clone() : own.sum(dim: 0, keepdim: true));
    }

    private void AddBiasGradient(Tensor? gb, Tensor gs, AttentionPlan.Block block)
    {
        if (gb is null)
        {
            return;
        }

        var own = gs.view(call.Rows, _shape.Heads, block.Queries, block.Keys);
        own = gb.size(0) == 1 && call.Rows > 1 ? own.sum(dim: 0, keepdim: true) : own;
        own = gb.size(2) == 1 && call.Length > 1 ? own.sum(dim: 2, keepdim: true) : own;
        Slice(gb, block).add_(own);
    }

    private void AddSinkGradient(Tensor weights, Tensor gradient, AttentionPlan.Block block)
    {
        if (sinks?.Gradient is { } own)
        {
            // The sink's share of the softmax has the value zero.
            var share = weights.sum(-1).neg_().add_(1).mul_(weights.mul(gradient).sum(-1));
            own.sub_(share.view(call.Rows, _shape.Heads, block.Queries).sum([0, 2]).to(own.dtype));
        }
    }

    private Tensor Unflat(Tensor heads, long size) => heads.view(call.Rows, _shape.KeyValueHeads, -1, size)
        .narrow(2, heads.size(1) - call.Keys, call.Keys)
        .transpose(1, 2);

    private static Tensor Flat(Tensor heads) => heads.reshape(heads.size(0) * heads.size(1), -1);

    private Tensor Dropped(Tensor weights, int index) => _drops ? DropoutKernel.Apply(weights, _dropped[index], 1 / (1 - _shape.Dropout)) : weights;

    private Tensor Slice(Tensor bias, AttentionPlan.Block block)
    {
        var own = bias.narrow(3, block.Key, block.Keys);
        return own.size(2) == 1 ? own : own.narrow(2, block.Query, block.Queries);
    }

    /// <summary>
    /// The block's queries and their attention weights, [rows · kv heads, group · queries, head size] and [.., keys], and by how much
    /// capped scores follow uncapped ones.
    /// </summary>
    private (Tensor Queries, Tensor Weights, Tensor? Slope) Weights(AttentionPlan.Block block)
    {
        var q = Grouped(_queries.view(call.Rows, call.Length, _shape.KeyValueHeads, _shape.Group, _shape.HeadSize), block);
        var scores = q.bmm(_keys.narrow(1, block.Key, block.Keys).transpose(1, 2));
        Tensor? slope = null;
        if (_shape.SoftCap is { } cap)
        {
            var tangent = scores.div_(cap).tanh_();
            slope = tangent.square().neg_().add_(1);
            scores = tangent.mul_(cap);
        }

        if (_bias is not null)
        {
            scores.view(call.Rows, _shape.Heads, block.Queries, block.Keys).add_(Slice(_bias, block));
        }

        if (sinks is null)
        {
            return (q, AttentionKernels.Softmax(scores, block.Mask, block.Queries, call.Rows), slope);
        }

        // In front, for masks count from the last key.
        var sink = sinks.Data.to(scores.dtype).view(1, _shape.Heads, 1, 1).expand(call.Rows, _shape.Heads, block.Queries, 1).reshape(scores.size(0), scores.size(1), 1);
        var weights = AttentionKernels.Softmax(cat([sink, scores], -1), block.Mask, block.Queries, call.Rows);
        return (q, weights.narrow(-1, 1, block.Keys).contiguous(), slope);
    }

    // [rows, length, kv heads, group, n] to [rows · kv heads, group · queries, n].
    private Tensor Grouped(Tensor all, AttentionPlan.Block block) => all.narrow(1, block.Query, block.Queries)
        .permute(0, 2, 3, 1, 4)
        .reshape(call.Rows * _shape.KeyValueHeads, _shape.Group * block.Queries, -1);
}
