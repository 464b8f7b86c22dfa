using Peft.Engine;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Layer norm, y = w · (x − mean(x)) / sqrt(variance(x) + ε) + b (Ba, Kiros and Hinton 2016).</summary>
public sealed class LayerNorm : Module, INorm
{
    private readonly long _size;
    private readonly double _epsilon;

    /// <summary>Makes a norm without weights.</summary>
    /// <param name="size">Width.</param>
    /// <param name="epsilon">Added to the variance.</param>
    /// <param name="hasBias">Whether it adds a bias.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="printsDetails">Whether its sizes are printed (Cohere's aren't).</param>
    /// <param name="heads">Number of heads that have weights of their own, where it norms each by itself (Cohere); null for the same in all.</param>
    public LayerNorm(long size, double epsilon, bool hasBias = true, string className = "LayerNorm", bool printsDetails = true, long? heads = null)
        : base(className)
    {
        _size = size;
        _epsilon = epsilon;
        Details = printsDetails ? $"({size},), eps={ModuleText.Number(epsilon)}, elementwise_affine=True, bias={(hasBias ? "True" : "False")}" : "";
        Weight = AddParameter("weight", heads is { } count ? [count, size] : [size]);
        Bias = hasBias ? AddParameter("bias", [size]) : null;
        Scale = new NormWeight(this, Weight, Bias, Apply);
    }

    /// <summary>[width], or [heads, width].</summary>
    public Parameter Weight { get; }

    /// <summary>[width], or null.</summary>
    public Parameter? Bias { get; }

    /// <inheritdoc/>
    public IAdaptable Scale { get; }

    /// <inheritdoc/>
    public override string Details { get; }

    /// <summary>Runs the norm.</summary>
    /// <param name="x">[rows, width], or several widths side by side (heads), each normed by itself.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>Of the same shape.</returns>
    public Tensor Forward(Tensor x, ForwardContext context) => Weight.Slot?.Plan(context).NeedsForward == true
        ? Weight.Slot.Forward(x, context, Run)
        : Run(x, context);

    /// <summary>The norm with other weights, without the tape.</summary>
    private Tensor Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var heads = x.size(-1) == _size && Weight.Shape.Count == 1 ? x : x.view(x.size(0), -1, _size);
        var centred = heads - heads.mean([-1], keepdim: true);
        var scaled = centred * (centred.square().mean([-1], keepdim: true) + _epsilon).rsqrt() * weight;
        return (bias is null ? scaled : scaled + bias).view(x.shape);
    }

    private Tensor Run(Tensor x, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (weight, bias) = (Weight.Effective(context), Bias?.Effective(context));
        var heads = x.size(-1) == _size && Weight.Shape.Count == 1 ? x : x.view(x.size(0), -1, _size);
        if (Weight.Shape.Count == 1 && CpuRows.Serves(x))
        {
            var (wide, wideBias) = (LinearProduct.Cast(weight.Data, ScalarType.Float32), bias is null ? null : LinearProduct.Cast(bias.Data, ScalarType.Float32));
            var (result, own, inverses) = LayerNormKernel.Form(x, wide, wideBias, _epsilon, context.Tape is not null);
            Take(context.Recorder, x, result, weight, bias);
            if (context.Tape is not null)
            {
                Record(new LayerNormPiece(own!.view(heads.shape), inverses!, x.shape, weight, bias) { IsByKernel = true }, result);
            }

            return result.MoveToOuterDisposeScope();
        }

        var mean = heads.mean([-1], keepdim: true, type: ScalarType.Float32);
        var centred = LinearProduct.Cast(heads.sub(mean), x.dtype);
        var inverse = LinearProduct.Cast(centred.square().sum(-1, keepdim: true, type: ScalarType.Float32).mul_(1.0 / _size).add_(_epsilon).rsqrt_(), x.dtype);
        var normed = centred.mul_(inverse);
        var piece = new LayerNormPiece(normed, inverse, x.shape, weight, bias);
        var y = piece.Recompute();
        Take(context.Recorder, x, y, weight, bias);
        if (context.Tape is not null)
        {
            Record(piece, y);
        }

        return y.MoveToOuterDisposeScope();

        void Record(LayerNormPiece own, Tensor output)
        {
            own.KeepForBackward();
            context.Tape!.Record(own, [x], [output], weight.IsTrained || bias?.IsTrained == true);
        }
    }

    private void Take(StepRecorder? recorder, Tensor x, Tensor y, Parameter weight, Parameter? bias)
    {
        if (recorder is not null && Weight.Shape.Count == 1)
        {
            LayerSteps.LayerNorm(recorder, x, LinearProduct.Cast(weight.Data, ScalarType.Float32), bias is null ? null : LinearProduct.Cast(bias.Data, ScalarType.Float32), y, _epsilon);
        }
        else
        {
            recorder?.Refuse();
        }
    }

    private sealed class LayerNormPiece(Tensor normed, Tensor inverse, long[] shape, Parameter weight, Parameter? bias) : Piece
    {
        /// <summary>Whether the kernel formed it, whose inverses are float32, one a row.</summary>
        public bool IsByKernel { get; init; }

        public override bool CanRecompute => true;

        public void KeepForBackward()
        {
            KeepOwn(normed);
            KeepOwn(inverse);
        }

        public override Tensor Recompute()
        {
            var scaled = normed.mul(LinearProduct.Cast(weight.Data, normed.dtype));
            return (bias is null ? scaled : scaled.add_(LinearProduct.Cast(bias.Data, normed.dtype))).view(shape);
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output().reshape(normed.shape);
            weight.Gradient?.add_(g.mul(normed).view([-1, .. weight.Shape]).sum(dim: 0));
            bias?.Gradient?.add_(g.reshape(-1, normed.size(-1)).sum(dim: 0));
            if (!gradients.Needs())
            {
                return;
            }

            if (IsByKernel)
            {
                var given = LinearProduct.Cast(g, normed.dtype).contiguous();
                gradients.Add(0, LayerNormKernel.Gradient(given, normed, inverse, LinearProduct.Cast(weight.Data, ScalarType.Float32)).view(shape));
                return;
            }

            // With n the normed input: r (g w − mean(g w) − n mean(g w n)).
            var gx = g.mul(LinearProduct.Cast(weight.Data, g.dtype));
            var along = gx.mul(normed).mean([-1], keepdim: true);
            gradients.Add(0, gx.sub_(gx.mean([-1], keepdim: true)).addcmul_(normed, along, -1).mul_(inverse).view(shape));
        }
    }
}
