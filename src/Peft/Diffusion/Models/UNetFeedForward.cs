using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Diffusion.Models;

/// <summary>The layer that makes values and gates of positions, as diffusers lists it.</summary>
internal sealed class Geglu : Module
{
    public Geglu(long width, long inner)
        : base("GEGLU") => Projection = Add("proj", new Linear(width, 2 * inner, hasBias: true));

    public Linear Projection { get; }

    /// <summary>x · gelu(gate), of one projection's two halves (Shazeer 2020).</summary>
    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var projections = Projection.Forward(x, context);
        var output = GegluGate.Form(projections);
        context.Tape?.Record(new GatePiece(projections), [projections], [output], trains: false);
        return output;
    }

    /// <summary>Keeps the projections alone.</summary>
    private sealed class GatePiece : Piece
    {
        private readonly Tensor _projections;

        public GatePiece(Tensor projections) => _projections = Keep(projections);

        public override bool CanRecompute => true;

        public override Tensor Recompute() => GegluGate.Form(_projections);

        public override void Backward(PieceGradients gradients)
        {
            var gx = empty_like(_projections);
            foreach (var (start, count) in GegluGate.Slices(_projections.size(0), _projections.size(1), _projections.device_type))
            {
                using var scope = NewDisposeScope();
                GegluGate.Gradient(_projections.narrow(0, start, count), gradients.Output().narrow(0, start, count), gx.narrow(0, start, count));
            }

            gradients.Add(0, gx);
        }
    }
}

/// <summary>A transformer's MLP, as diffusers lists it.</summary>
internal sealed class UNetFeedForward : Module
{
    private readonly Geglu _geglu;
    private readonly Linear _output;

    public UNetFeedForward(long width)
        : base("FeedForward")
    {
        (_geglu, _output) = (new Geglu(width, 4 * width), new Linear(4 * width, width, hasBias: true));
        Add("net", new ModuleList<Module>([_geglu, new Dropout(0), _output]));
    }

    /// <summary>residual + MLP(x).</summary>
    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        if (!IsPlain(_geglu.Projection, x, context) || !IsPlain(_output, x, context))
        {
            return _output.Forward(_geglu.Forward(x, context), context, residual).MoveToOuterDisposeScope();
        }

        var layers = new Weights(Own(_geglu.Projection.Weight), Own(_geglu.Projection.Bias!), Own(_output.Weight), Own(_output.Bias!));
        var sum = layers.Run(x, residual);
        context.Tape?.Record(new SlicedPiece(x, context.Tape.SourceOf(x), layers), [x, residual], [sum], trains: false);
        return sum.MoveToOuterDisposeScope();

        Tensor Own(Parameter parameter) => LinearProduct.Cast(parameter.Effective(context).Data, x.dtype);
    }

    /// <summary>Whether nothing acts on a layer and nothing in it is trained, so that what lies between the two layers is wanted by nobody.</summary>
    private static bool IsPlain(Linear layer, Tensor x, ForwardContext context) =>
        context.InputObserver is null
        && !context.Widens(x)
        && !context.Narrows(x)
        && layer.Weight.Slot?.Plan(context).IsEmpty != false
        && layer.Weight.Effective(context) is { Packed: null, IsTrained: false }
        && !layer.Bias!.Effective(context).IsTrained;

    /// <summary>The two layers' weights and biases, run over slices of rows that stay in the cache: what lies between the layers is eight times as wide as they.</summary>
    private sealed record Weights(Tensor In, Tensor InBias, Tensor Out, Tensor OutBias)
    {
        public Tensor Run(Tensor x, Tensor residual)
        {
            var sum = residual.add(OutBias);
            foreach (var (start, count) in Slices(x))
            {
                using var scope = NewDisposeScope();
                sum.narrow(0, start, count).addmm_(GegluGate.Form(Projected(x, start, count)), Out.t(), 1, 1);
            }

            return sum;
        }

        public Tensor Gradient(Tensor x, Tensor g)
        {
            var gx = empty_like(x);
            foreach (var (start, count) in Slices(x))
            {
                using var scope = NewDisposeScope();
                var projections = Projected(x, start, count);
                GegluGate.Gradient(projections, g.narrow(0, start, count).mm(Out), projections);
                gx.narrow(0, start, count).copy_(projections.mm(In));
            }

            return gx;
        }

        public Weights With(Func<Tensor, Tensor> change) => new(change(In), change(InBias), change(Out), change(OutBias));

        private IEnumerable<(long Start, long Count)> Slices(Tensor x) => GegluGate.Slices(x.size(0), In.size(0), x.device_type);

        private Tensor Projected(Tensor x, long start, long count) => addmm(InBias, x.narrow(0, start, count), In.t(), 1, 1);
    }

    /// <summary>Keeps the input, unless its source gives it again, and forms all that follows once more.</summary>
    private sealed class SlicedPiece : Piece
    {
        private readonly Tensor? _x;
        private readonly Piece? _source;
        private readonly Weights _weights;

        public SlicedPiece(Tensor x, Piece? source, Weights weights)
        {
            _source = source;
            _x = source is null ? Keep(x) : null;
            _weights = weights.With(Keep);
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            gradients.Add(1, g, owned: false);
            if (gradients.Needs())
            {
                gradients.Add(0, _weights.Gradient(_x ?? _source!.Recompute(), g));
            }
        }
    }
}

/// <summary>x · gelu(gate), of the two halves of a projection's columns, and its gradient.</summary>
internal static class GegluGate
{
    // What stays in a processor's cache, but not so few rows that products read their weights again and again; on a GPU memory that passes through is the only bound.
    private const long CacheElements = 1 << 18;
    private const long LeastRows = 256;
    private const long GpuElements = 1 << 28;

    /// <summary>Ranges of rows that are worth a turn of their own.</summary>
    public static IEnumerable<(long Start, long Count)> Slices(long rows, long width, DeviceType device)
    {
        var size = device == DeviceType.CPU ? Math.Max(LeastRows, CacheElements / width) : Math.Max(1, GpuElements / width);
        for (long start = 0; start < rows; start += size)
        {
            yield return (start, Math.Min(size, rows - start));
        }
    }

    /// <summary>The product, [rows, width].</summary>
    /// <param name="projections">[rows, 2 · width].</param>
    public static Tensor Form(Tensor projections)
    {
        var halves = projections.chunk(2, 1);
        return halves[1].gelu().mul_(halves[0]);
    }

    /// <summary>Puts the projections' gradient into a tensor of their shape, which may be theirs.</summary>
    /// <param name="projections">[rows, 2 · width].</param>
    /// <param name="g">Gradient of the product.</param>
    /// <param name="target">Written over.</param>
    public static void Gradient(Tensor projections, Tensor g, Tensor target)
    {
        var (values, gate) = (projections.chunk(2, 1)[0], projections.chunk(2, 1)[1]);

        // With Φ the normal distribution: gelu = t Φ(t), gelu' = Φ(t) + t φ(t).
        var share = gate.mul(Math.Sqrt(0.5)).erf_().add_(1).mul_(0.5);
        var slope = gate.square().mul_(-0.5).exp_().mul_(1 / Math.Sqrt(2 * Math.PI)).mul_(gate).add_(share);
        var ofValues = share.mul_(gate).mul_(g);
        var ofGate = slope.mul_(values).mul_(g);
        target.narrow(1, 0, g.size(1)).copy_(ofValues);
        target.narrow(1, g.size(1), g.size(1)).copy_(ofGate);
    }
}
