using Peft.Engine;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Heads of a recurrence, formed by a short convolution, silu and the length of queries and keys, as a step with a backward pass of its own.</summary>
internal static class ConvolvedHeads
{
    /// <summary>Whether the step serves a pass: on the processor in float32 or bfloat16, over whole rows, with weights that stay as they are.</summary>
    /// <param name="x">The convolution's input, [rows · length, channels].</param>
    /// <param name="weight">Its weights, as they act under the context.</param>
    /// <param name="activation">What follows it.</param>
    /// <param name="context">The forward pass.</param>
    public static bool Serve(Tensor x, Parameter weight, Activation activation, ForwardContext context) =>
        context.Cache is null && activation.IsSilu && !weight.IsTrained && CpuRows.Serves(x) && (context.Tape is not null || !is_grad_enabled());

    /// <summary>Forms heads.</summary>
    /// <param name="x">[rows · length, channels].</param>
    /// <param name="weight">[channels, 1, taps].</param>
    /// <param name="layout">The pass's rows.</param>
    /// <param name="groups">Which channels are heads, all of them together.</param>
    /// <param name="epsilon">Added to a head's square of its length.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A tensor for each group, float32 [rows, heads, length, size].</returns>
    public static Tensor[] Forward(Tensor x, Parameter weight, SequenceLayout layout, HeadChannels[] groups, double epsilon, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var taps = Taps(weight, x);
        var rows = layout.Gather(x);
        Tensor[] heads = [.. groups.Select(group => ConvolvedHeadsKernel.Form(rows, taps, group, epsilon))];
        context.Tape?.Record(new ConvolvedHeadsPiece(x, weight, layout, groups, epsilon), [x], heads, trains: false);
        return [.. heads.Select(static tensor => tensor.MoveToOuterDisposeScope())];
    }

    private static Tensor Taps(Parameter weight, Tensor x) => weight.Data.detach().to(x.dtype).to(ScalarType.Float32).squeeze(1).t().contiguous();

    private sealed class ConvolvedHeadsPiece : Piece
    {
        private readonly Tensor _x;
        private readonly Parameter _weight;
        private readonly SequenceLayout _layout;
        private readonly HeadChannels[] _groups;
        private readonly double _epsilon;

        public ConvolvedHeadsPiece(Tensor x, Parameter weight, SequenceLayout layout, HeadChannels[] groups, double epsilon)
        {
            _x = Keep(x);
            _weight = weight;
            _layout = layout;
            _groups = groups;
            _epsilon = epsilon;
        }

        public override void Backward(PieceGradients gradients)
        {
            var (taps, rows) = (Taps(_weight, _x), _layout.Gather(_x));
            var target = zeros_like(rows);
            for (var i = 0; i < _groups.Length; i++)
            {
                if (gradients.OutputOrNull(i) is { } gradient)
                {
                    ConvolvedHeadsKernel.Gradient(rows, taps, _groups[i], _epsilon, gradient.contiguous(), target);
                }
            }

            gradients.Add(0, _layout.Scatter(_layout.Masked(target)).view(_x.shape));
        }
    }
}
