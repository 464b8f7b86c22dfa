using Peft.Engine;
using Peft.Engine.Cuda;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Root mean square norm, y = w · x / sqrt(mean(x²) + ε) (Zhang and Sennrich 2019).</summary>
public sealed class RmsNorm : Module
{
    private readonly long _size;
    private readonly double _epsilon;
    private readonly bool _addsOne;

    /// <summary>Makes a norm without weights.</summary>
    /// <param name="size">Width.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="className">transformers' class name, such as <c>LlamaRMSNorm</c>.</param>
    /// <param name="printsDetails">Whether its sizes are printed (T5's aren't).</param>
    /// <param name="addsOne">Whether weights are stored less one, so that they multiply by 1 + w.</param>
    public RmsNorm(long size, double epsilon, string className, bool printsDetails = true, bool addsOne = false)
        : base(className)
    {
        Details = printsDetails ? $"({size},), eps={ModuleText.Number(epsilon)}" : "";
        _size = size;
        _epsilon = epsilon;
        _addsOne = addsOne;
        Weight = AddParameter("weight", [size]);
    }

    /// <summary>[width].</summary>
    public Parameter Weight { get; }

    /// <inheritdoc/>
    public override string Details { get; }

    /// <summary>Runs the norm.</summary>
    /// <param name="x">[rows, width], or several widths side by side (heads), each normed by itself.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>Of the same shape.</returns>
    public Tensor Forward(Tensor x, ForwardContext context) => Weight.Slot?.Plan(context).NeedsForward == true
        ? Weight.Slot.Forward(x, context, Run)
        : Run(x, context);

    private Tensor Run(Tensor x, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var weight = Weight.Effective(context);
        var heads = x.size(-1) == _size ? x : x.view(x.size(0), -1, _size);
        var cast = Scale(weight, x.dtype, _addsOne);
        var (result, inverse) = Form(heads, cast);
        var y = result.view(x.shape);
        if (context.Recorder is { } recorder)
        {
            LayerSteps.RmsNorm(recorder, heads, cast, result, _epsilon);
        }

        context.Tape?.Record(new RmsNormPiece(heads, x.shape, inverse, weight, (_size, _epsilon), _addsOne), [x], [y], weight.IsTrained);
        return y.MoveToOuterDisposeScope();
    }

    private static Tensor Scale(Parameter weight, ScalarType type, bool addsOne) =>
        LinearProduct.Cast(addsOne ? weight.Data.to(ScalarType.Float32).add(1) : weight.Data, type);

    private (Tensor Result, Tensor Inverse) Form(Tensor x, Tensor cast)
    {
        if (LayerLaunches.Serving(x, cast) is { } device)
        {
            return LayerLaunches.RootMeanSquare(device, x, cast, _epsilon);
        }

        if (NormKernel.Serves(x, cast))
        {
            return NormKernel.RootMeanSquare(x, cast, _epsilon);
        }

        // Squares of float16 leave its range at 256.
        var wide = x.dtype == ScalarType.Float16 ? x.to(ScalarType.Float32) : x;
        var inverse = wide.square().sum(-1, keepdim: true, type: ScalarType.Float32).mul_(1.0 / _size).add_(_epsilon).rsqrt_();
        inverse = LinearProduct.Cast(inverse, x.dtype);
        return (Form(x, inverse, cast), inverse);
    }

    private static Tensor Form(Tensor x, Tensor inverse, Tensor weight) => x.mul(inverse).mul_(weight);

    private sealed class RmsNormPiece : Piece
    {
        private readonly Tensor _x;
        private readonly long[] _shape;
        private readonly Tensor _inverse;
        private readonly Parameter _weight;
        private readonly long _size;
        private readonly double _epsilon;
        private readonly bool _addsOne;

        public RmsNormPiece(Tensor x, long[] shape, Tensor inverse, Parameter weight, (long Size, double Epsilon) norm, bool addsOne)
        {
            _addsOne = addsOne;
            _x = Keep(x);
            _shape = shape;
            _inverse = Keep(inverse);
            _weight = weight;
            (_size, _epsilon) = norm;
        }

        public override bool CanRecompute => true;

        public override Tensor Recompute()
        {
            var weight = Weight;
            return (LayerLaunches.Serving(_x, weight) is { } device ? LayerLaunches.RootMeanSquare(device, _x, weight, _epsilon).Result : Form(_x, _inverse, weight)).view(_shape);
        }

        private Tensor Weight => Scale(_weight, _x.dtype, _addsOne);

        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output().reshape(_x.shape);
            _weight.Gradient?.add_(g.mul(_x).mul_(_inverse).view(-1, _size).sum(dim: 0));
            if (!gradients.Needs())
            {
                return;
            }

            var weight = Weight;
            if (g.is_contiguous() && LayerLaunches.Serving(_x, g, _inverse, weight) is { } device)
            {
                gradients.Add(0, LayerLaunches.RootMeanSquareGradient(device, g, _x, _inverse, weight).view(_shape));
                return;
            }

            // d/dx of w x r(x): r (g w) − x r³/n Σ (g w x).
            var gx = g.mul(weight);
            var along = gx.mul(_x).sum(-1, keepdim: true).mul_(_inverse.pow(3).mul_(1.0 / _size));
            gradients.Add(0, gx.mul_(_inverse).addcmul_(_x, along, -1).view(_shape));
        }
    }
}
