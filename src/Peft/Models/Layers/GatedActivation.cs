using Peft.Engine;
using Peft.Engine.Cuda;
using Peft.Models.Steps;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>act(gate) · up, of a gated MLP (Shazeer 2020), in slices of rows that stay in the cache.</summary>
public static class GatedActivation
{
    // What stays in a processor's cache; on a GPU each slice costs the start of its operators, and memory that passes through is the only bound.
    private const long CacheElements = 1 << 18;
    private const long GpuElements = 1 << 28;

    /// <summary>Runs it.</summary>
    /// <param name="projections">Gate and up side by side, [rows, 2 · width]. Its memory is overwritten in the backward pass where no earlier piece keeps or reads it; no later one may.</param>
    /// <param name="activation">The activation.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows, width].</returns>
    public static Tensor Forward(Tensor projections, Activation activation, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(activation);
        if (context.Tape is not { } tape)
        {
            var gated = Form(projections, activation, context);
            if (context.Recorder is { } recorder)
            {
                Record(recorder, projections, gated, activation);
            }

            return gated;
        }

        if (!activation.IsSilu)
        {
            return tape.Autograd(
                inputs =>
                {
                    var halves = context.Narrowed(inputs[0]).chunk(2, 1);
                    return LinearProduct.Cast(activation.Apply(halves[0]).mul(halves[1]), inputs[0].dtype);
                },
                [projections],
                []);
        }

        var output = Form(projections, activation, context);
        tape.Record(new SiluPiece(projections, activation, context, tape.IsFree(projections)), [projections], [output], trains: false);
        return output;
    }

    /// <summary>What a training keeps of a token less than the layer behind it reads: its backward pass forms what SiLU gave again.</summary>
    /// <param name="activation">The activation.</param>
    /// <param name="width">Width of the output.</param>
    /// <param name="elementBytes">Bytes of an element.</param>
    internal static long KeptBytesOf(Activation activation, long width, int elementBytes) => activation.IsSilu ? -width * elementBytes : 0;

    private static void Record(StepRecorder recorder, Tensor projections, Tensor gated, Activation activation)
    {
        if (activation.Form is { } form)
        {
            LayerSteps.Activation(recorder, projections, gated, form, isGated: true);
        }
    }

    private static Tensor Form(Tensor projections, Activation activation, ForwardContext context)
    {
        if (context.Narrows(projections))
        {
            // What comes of narrow products is narrow until it meets what isn't.
            using var narrow = NewDisposeScope();
            var halves = context.Narrowed(projections).chunk(2, 1);
            return activation.Apply(halves[0]).mul_(halves[1]).to(projections.dtype).MoveToOuterDisposeScope();
        }

        if (activation.IsSilu && LayerLaunches.Serving(projections) is { } device)
        {
            return LayerLaunches.Gated(device, projections);
        }

        if (activation.IsSilu && CpuRows.Serves(projections))
        {
            return GatedKernel.Form(projections);
        }

        using var scope = NewDisposeScope();
        var (rows, width) = (projections.size(0), projections.size(1) / 2);
        var step = SliceRows(projections, width);
        if (rows <= step)
        {
            return activation.Apply(projections.narrow(1, 0, width)).mul_(projections.narrow(1, width, width)).MoveToOuterDisposeScope();
        }

        var output = empty([rows, width], projections.dtype, projections.device);
        for (long start = 0; start < rows; start += step)
        {
            using var slice = NewDisposeScope();
            var part = projections.narrow(0, start, Math.Min(step, rows - start));
            output.narrow(0, start, part.size(0)).copy_(activation.Apply(part.narrow(1, 0, width)).mul_(part.narrow(1, width, width)));
        }

        return output.MoveToOuterDisposeScope();
    }

    private static long SliceRows(Tensor projections, long width) => Math.Max(1, (projections.device_type == DeviceType.CPU ? CacheElements : GpuElements) / width);

    private sealed class SiluPiece : Piece
    {
        private readonly Tensor _projections;
        private readonly Activation _activation;

        private readonly ForwardContext _context;

        public SiluPiece(Tensor projections, Activation activation, ForwardContext context, bool overwrites)
        {
            _context = context;
            OverwritesInputs = overwrites;
            _projections = Keep(projections);
            _activation = activation;
        }

        public override bool CanRecompute => true;

        public override bool OverwritesInputs { get; }

        public override Tensor Recompute() => Form(_projections, _activation, _context);

        /// <summary>The gradients take the place of the values, or of a copy of them where another piece has these.</summary>
        public override void Backward(PieceGradients gradients)
        {
            var projections = OverwritesInputs ? _projections : _projections.clone();
            var given = gradients.Output();
            var device = LayerLaunches.Serving(projections, given);
            if (device is not null || (CpuRows.Serves(projections) && CpuRows.Serves(given) && given.dtype == projections.dtype))
            {
                if (device is not null)
                {
                    LayerLaunches.GatedGradient(device, projections, given);
                }
                else
                {
                    GatedKernel.Gradient(projections, given);
                }

                gradients.Add(0, projections.alias());
                return;
            }

            var all = gradients.OutputToOverwrite();
            var (rows, width) = (projections.size(0), projections.size(1) / 2);
            var step = SliceRows(projections, width);
            for (long start = 0; start < rows; start += step)
            {
                using var slice = NewDisposeScope();
                var count = Math.Min(step, rows - start);
                var part = projections.narrow(0, start, count);
                var (gate, up, g) = (part.narrow(1, 0, width), part.narrow(1, width, width), all.narrow(0, start, count));
                var sigmoid = gate.sigmoid();
                var silu = gate.mul(sigmoid);
                var gradientUp = g.mul(silu);

                // silu' = σ + silu − silu σ.
                var slope = sigmoid.add(silu).addcmul_(silu, sigmoid, -1);
                gate.copy_(g.mul_(up).mul_(slope));
                up.copy_(gradientUp);
            }

            gradients.Add(0, projections.alias());
        }
    }
}
