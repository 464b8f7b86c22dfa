using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>The sum of a block's input and what the block adds to it.</summary>
public static class ResidualSum
{
    /// <summary>left + scale · right; the gradient passes to both.</summary>
    /// <param name="left">[rows, width].</param>
    /// <param name="right">Of the same shape.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="scale">Multiplies what is added.</param>
    public static Tensor Forward(Tensor left, Tensor right, ForwardContext context, double scale = 1)
    {
        var sum = left.add(right, alpha: scale);
        if (context.Recorder is { } recorder)
        {
            LayerSteps.Sum(recorder, left, right, sum, scale);
        }

        context.Tape?.Record(new SumPiece(scale), [left, right], [sum], trains: false);
        return sum;
    }

    /// <summary>Zeros to add to, as something that gets no gradient.</summary>
    /// <param name="like">Of whose shape, type and device.</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Zero(Tensor like, ForwardContext context)
    {
        var zeros = zeros_like(like);
        context.Tape?.AddRoot(zeros);
        return zeros;
    }

    /// <summary>residual + dropout(layer(x)), in one product where nothing is dropped.</summary>
    /// <param name="residual">[rows, outputs].</param>
    /// <param name="layer">The layer.</param>
    /// <param name="dropout">What drops elements of its output; null for nothing.</param>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Forward(Tensor residual, Linear layer, Dropout? dropout, Tensor x, ForwardContext context) => dropout?.Acts(context) == true
        ? Forward(residual, dropout.Forward(layer.Forward(x, context), context), context)
        : layer.Forward(x, context, residual);

    private sealed class SumPiece(double scale) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            gradients.Add(0, g, owned: false);
            gradients.Add(1, scale == 1 ? g : g.mul(scale), owned: scale != 1);
        }
    }
}

/// <summary>Values times a constant, such as token vectors in models that scale them.</summary>
internal static class Scaling
{
    /// <summary>factor · x.</summary>
    /// <param name="x">Any shape.</param>
    /// <param name="factor">A number, which leaves x as it is where it is 1.</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Forward(Tensor x, double factor, ForwardContext context)
    {
        if (factor == 1)
        {
            return x;
        }

        var y = x.mul(factor);
        if (context.Recorder is { } recorder)
        {
            LayerSteps.Sum(recorder, null, x, y, factor);
        }

        context.Tape?.Record(new ScalingPiece(factor), [x], [y], trains: false);
        return y;
    }

    private sealed class ScalingPiece(double factor) : Piece
    {
        public override void Backward(PieceGradients gradients) => gradients.Add(0, gradients.Output().mul(factor));
    }
}

/// <summary>Outputs of several layers side by side.</summary>
internal static class Concatenation
{
    /// <summary>[rows, sum of widths].</summary>
    public static Tensor Forward(Tensor[] parts, ForwardContext context)
    {
        var joined = cat(parts, 1);
        if (context.Recorder is { } recorder)
        {
            LayerSteps.Concatenation(recorder, parts, joined);
        }

        context.Tape?.Record(new ConcatenationPiece([.. parts.Select(static part => part.size(1))]), parts, [joined], trains: false);
        return joined;
    }

    private sealed class ConcatenationPiece(long[] widths) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            long start = 0;
            for (var i = 0; i < widths.Length; i++)
            {
                gradients.Add(i, gradients.Output().narrow(1, start, widths[i]), owned: false);
                start += widths[i];
            }
        }
    }
}

/// <summary>A tensor cut into columns, such as projections that stand side by side.</summary>
internal static class Splitting
{
    /// <summary>Views [rows, width] of the input, a width each.</summary>
    public static Tensor[] Forward(Tensor x, IReadOnlyList<long> widths, ForwardContext context)
    {
        var parts = new Tensor[widths.Count];
        long start = 0;
        for (var i = 0; i < parts.Length; i++)
        {
            parts[i] = x.narrow(1, start, widths[i]);
            start += widths[i];
        }

        context.Tape?.Record(new SplittingPiece(widths), [x], parts, trains: false);
        return parts;
    }

    private sealed class SplittingPiece(IReadOnlyList<long> widths) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            var any = widths.Select((_, i) => gradients.OutputOrNull(i)).First(static gradient => gradient is not null)!;
            gradients.Add(0, cat([.. widths.Select((width, i) => gradients.OutputOrNull(i) ?? zeros([any.size(0), width], any.dtype, any.device))], 1));
        }
    }
}

/// <summary>Some rows of a tensor, such as the positions a head looks at.</summary>
internal static class RowSelection
{
    /// <summary>[number of indices, width].</summary>
    public static Tensor Forward(Tensor x, Tensor rows, ForwardContext context)
    {
        var selected = x.index_select(0, rows);
        context.Tape?.Record(new RowPiece(rows, x.size(0)), [x], [selected], trains: false);
        return selected;
    }

    private sealed class RowPiece : Piece
    {
        private readonly Tensor _rows;
        private readonly long _count;

        public RowPiece(Tensor rows, long count)
        {
            _rows = Keep(rows);
            _count = count;
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            gradients.Add(0, zeros([_count, g.size(1)], g.dtype, g.device).index_add_(0, _rows, g, 1));
        }
    }
}

/// <summary>What a gate lets through: x · sigmoid(gate).</summary>
internal static class SigmoidGate
{
    /// <summary>[rows, width].</summary>
    /// <param name="x">[rows, width].</param>
    /// <param name="gate">[rows, width], or [rows, 1] for one gate a row.</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Forward(Tensor x, Tensor gate, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var open = gate.sigmoid();
        var y = x.mul(open);
        if (context.Recorder is { } recorder)
        {
            LayerSteps.SigmoidGate(recorder, x, gate, y);
        }

        context.Tape?.Record(new GatePiece(x, open), [x, gate], [y], trains: false);
        return y.MoveToOuterDisposeScope();
    }

    private sealed class GatePiece : Piece
    {
        private readonly Tensor _x;
        private readonly Tensor _open;

        public GatePiece(Tensor x, Tensor open)
        {
            _x = Keep(x);
            _open = Keep(open);
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            if (gradients.Needs(1))
            {
                var along = g.mul(_x);
                along = _open.size(1) == _x.size(1) ? along : along.sum(dim: 1, keepdim: true);
                gradients.Add(1, along.mul_(_open).mul_(_open.neg().add_(1)));
            }

            gradients.Add(0, g.mul(_open));
        }
    }
}
