using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// Attention in which all see all, on a processor, by the engine's kernel (Dao et al. 2022): no row of scores is ever written, and the
/// backward pass forms scores again from the logarithm of each row's sum.
/// </summary>
internal static class FlashAttention
{
    /// <summary>Whether the kernel takes an attention whose queries and keys need not be turned.</summary>
    public static bool Serves(Tensor queries, AttentionShape shape, AttentionPlan plan, ForwardContext context, ScoreTerms terms) =>
        plan.SeesAll
        && queries.device_type == DeviceType.CPU
        && queries.dtype is ScalarType.Float32 or ScalarType.BFloat16
        && shape is { Group: 1, SoftCap: null }
        && shape.ValueSize == shape.HeadSize
        && !(shape.Dropout > 0 && context.IsTraining)
        && context.Cache is null
        && !context.Narrows(queries)
        && context.Prompt?.KeyValues is null
        && terms is { Bias: null, Sinks: null }
        && Operators.AreNative;

    /// <summary>Runs it over projections that stand side by side, [rows · length, 3 · heads · head size].</summary>
    /// <returns>[rows · length, heads · head size].</returns>
    public static Tensor Run(Tensor projections, AttentionShape shape, ForwardContext context)
    {
        var parts = projections.view(context.Rows, context.Length, 3, shape.Heads, shape.HeadSize);
        return Run([projections], parts.select(2, 0), parts.select(2, 1), parts.select(2, 2), shape.Scale, context);
    }

    /// <summary>Runs it over queries, keys and values, each [rows · its length, heads · head size].</summary>
    /// <returns>[rows · length, heads · head size].</returns>
    public static Tensor Run(Tensor queries, Tensor keys, Tensor values, AttentionShape shape, ForwardContext context)
    {
        return Run([queries, keys, values], Heads(queries), Heads(keys), Heads(values), shape.Scale, context);

        Tensor Heads(Tensor x) => x.view(context.Rows, -1, shape.Heads, shape.HeadSize);
    }

    // Queries, keys and values as [rows, length, heads, head size].
    private static Tensor Run(Tensor[] inputs, Tensor queries, Tensor keys, Tensor values, double scale, ForwardContext context)
    {
        var (output, sums) = Operators.FlashAttention(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), scale);
        var flat = Flat(output.transpose(1, 2));
        context.Tape?.Record(new FlashPiece(queries, keys, values, (flat, sums), scale, inputs.Length == 1), inputs, [flat], trains: false);
        return flat;
    }

    private static Tensor Flat(Tensor heads) => heads.reshape(heads.size(0) * heads.size(1), -1);

    private sealed class FlashPiece : Piece
    {
        private readonly Tensor _queries;
        private readonly Tensor _keys;
        private readonly Tensor _values;
        private readonly Tensor _output;
        private readonly Tensor _sums;
        private readonly double _scale;
        private readonly bool _isFused;

        public FlashPiece(Tensor queries, Tensor keys, Tensor values, (Tensor Output, Tensor Sums) found, double scale, bool isFused)
        {
            (_queries, _keys, _values, _output, _sums) = (Keep(queries), Keep(keys), Keep(values), Keep(found.Output), Keep(found.Sums));
            (_scale, _isFused) = (scale, isFused);
        }

        public override bool KeepsOutputs => true;

        public override void Backward(PieceGradients gradients)
        {
            var output = _output.view(_queries.shape).transpose(1, 2);
            var g = gradients.Output().reshape(_queries.shape).transpose(1, 2);
            Tensor[] found =
                [.. Operators.FlashAttentionGradients(g, (_queries.transpose(1, 2), _keys.transpose(1, 2), _values.transpose(1, 2)), (output, _sums), _scale).Select(static part => part.transpose(1, 2))];
            if (_isFused)
            {
                gradients.Add(0, Flat(stack(found, 2)));
                return;
            }

            for (var i = 0; i < found.Length; i++)
            {
                gradients.Add(i, Flat(found[i]));
            }
        }
    }
}
