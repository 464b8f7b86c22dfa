using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// From hidden states to the logits of the next token and to their cross-entropy. The loss forms logits at labelled positions alone,
/// in chunks, and with them their gradient, so that logits are never kept. The exception: an adapter on the output layer needs a backward pass
/// of its own, so the logits of all labelled positions of a batch stand in memory at once, and their gradient.
/// </summary>
public sealed class Head
{
    // 16 MB of logits stay in or near the processor's caches, and below what malloc returns to the system each time; more rows
    // than these make a product no faster.
    private const long ChunkElements = 1 << 22;
    private const long ChunkRows = 512;

    private readonly Linear projection;

    /// <summary>Wraps the output embedding.</summary>
    public Head(Linear projection)
    {
        ArgumentNullException.ThrowIfNull(projection);
        this.projection = projection;
    }

    /// <summary>Multiplies logits (Cohere's <c>logit_scale</c>, one over Granite's <c>logits_scaling</c>).</summary>
    public double Scale { get; init; } = 1;

    /// <summary>Logits become cap · tanh(logits / cap) (Gemma 2's <c>final_logit_softcapping</c>); null for none.</summary>
    public double? SoftCap { get; init; }

    /// <summary>The logits of hidden states; not for training.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[n, vocabulary], in the hidden states' type.</returns>
    public Tensor Logits(Tensor hidden, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        return Shape(projection.Forward(hidden, context)).MoveToOuterDisposeScope();
    }

    /// <summary>Cross-entropy of the next token.</summary>
    /// <param name="hidden">[rows · length, hidden size].</param>
    /// <param name="labels">int64 [rows, length]; position t is compared with the label of t + 1; -100 is ignored.</param>
    /// <param name="divisor">What the sum over labelled positions is divided by; null for their number.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="labelSmoothing">Share of the target that is spread over the whole vocabulary.</param>
    /// <returns>A scalar in float32, known to the tape. Zero where nothing is labelled.</returns>
    public Tensor Loss(Tensor hidden, Tensor labels, double? divisor, ForwardContext context, double labelSmoothing = 0)
    {
        using var scope = NewDisposeScope();
        var (positions, targets) = Labelled(labels);
        var count = positions.size(0);
        var scale = 1 / (divisor ?? Math.Max(1, count));
        var selected = RowSelection.Forward(hidden, positions, context);
        var isFree = (projection.Weight.Slot?.Plan(context) ?? SlotPlan.Empty).IsEmpty;
        var loss = isFree
            ? ProjectedLoss(selected, targets, scale, context, labelSmoothing)
            : LogitLoss(projection.Forward(selected, context), targets, scale, context, labelSmoothing);
        return loss.MoveToOuterDisposeScope();
    }

    /// <summary>Negative log-likelihood of every labelled position, without a tape.</summary>
    /// <param name="hidden">[rows · length, hidden size].</param>
    /// <param name="labels">int64 [rows, length], as for <see cref="Loss"/>.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>float32 [rows, length - 1]; 0 where the label is -100.</returns>
    public Tensor TokenLosses(Tensor hidden, Tensor labels, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (rows, length) = (labels.size(0), labels.size(1));
        var (positions, targets) = Labelled(labels);
        var losses = zeros([rows * length], ScalarType.Float32, hidden.device);
        foreach (var (start, size) in Chunks(positions.size(0)))
        {
            using var chunk = NewDisposeScope();
            var own = positions.narrow(0, start, size);
            var logits = Shape(projection.Forward(hidden.index_select(0, own), context)).to(ScalarType.Float32);
            var chosen = logits.gather(1, targets.narrow(0, start, size).unsqueeze(1));
            losses.index_copy_(0, own, logits.logsumexp(1).sub_(chosen.squeeze(1)));
        }

        return losses.view(rows, length).narrow(1, 0, length - 1).MoveToOuterDisposeScope();
    }

    private static (Tensor Positions, Tensor Targets) Labelled(Tensor labels)
    {
        var length = labels.size(1);
        var next = labels.narrow(1, 1, length - 1);
        var found = next.ne(-100).nonzero();
        var positions = found.select(1, 0).mul(length).add_(found.select(1, 1));
        return (positions, labels.reshape(-1).index_select(0, positions.add(1)));
    }

    private Tensor Shape(Tensor logits)
    {
        var scaled = Scale == 1 ? logits : logits.mul(Scale);
        return SoftCap is { } cap ? scaled.div(cap).tanh_().mul_(cap) : scaled;
    }

    private IEnumerable<(long Start, long Size)> Chunks(long count)
    {
        var step = Math.Clamp(ChunkElements / projection.Outputs, 1, ChunkRows);
        for (long start = 0; start < count; start += step)
        {
            yield return (start, Math.Min(step, count - start));
        }
    }

    private Tensor ProjectedLoss(Tensor selected, Tensor targets, double scale, ForwardContext context, double smoothing)
    {
        context.InputObserver?.Invoke(projection, selected);
        var parameter = projection.Weight.Effective(context);
        var bias = projection.Bias?.Effective(context);
        var weight = LinearProduct.Cast(parameter.Data, selected.dtype);
        var tape = context.Tape;
        var gradient = tape is not null && tape.NeedsGradient(selected) ? empty_like(selected) : null;
        var weightGradient = tape is not null && parameter.IsTrained ? zeros_like(parameter.Data, ScalarType.Float32) : null;
        var biasGradient = tape is not null && bias?.IsTrained == true ? zeros_like(bias.Data, ScalarType.Float32) : null;
        var keepsGradient = gradient is not null || weightGradient is not null || biasGradient is not null;
        var total = zeros([], ScalarType.Float32, selected.device);
        foreach (var (start, size) in Chunks(targets.size(0)))
        {
            using var chunk = NewDisposeScope();
            var x = selected.narrow(0, start, size);
            var product = bias is null ? x.matmul(weight.t()) : addmm(LinearProduct.Cast(bias.Data, x.dtype), x, weight.t(), 1, 1);
            var target = targets.narrow(0, start, size).unsqueeze(1);
            var logitGradient = CrossEntropy(product, target, total, smoothing, keepsGradient);
            if (logitGradient is not null)
            {
                var g = LinearProduct.Cast(logitGradient, selected.dtype);
                gradient?.narrow(0, start, size).copy_(g.matmul(weight));
                weightGradient?.add_(g.t().matmul(x));
                biasGradient?.add_(g.sum(dim: 0));
            }
        }

        var loss = total.mul_(scale);
        tape?.Record(
            new LossPiece(scale, gradient, (parameter, weightGradient), (bias, biasGradient)),
            [selected],
            [loss],
            weightGradient is not null || biasGradient is not null);
        return loss;
    }

    private Tensor LogitLoss(Tensor logits, Tensor targets, double scale, ForwardContext context, double smoothing)
    {
        var total = zeros([], ScalarType.Float32, logits.device);
        var wanted = context.Tape?.NeedsGradient(logits) == true;
        var gradient = CrossEntropy(wanted ? logits.clone() : logits, targets.unsqueeze(1), total, smoothing, wanted);
        var loss = total.mul_(scale);
        context.Tape?.Record(
            new LossPiece(scale, gradient is null ? null : LinearProduct.Cast(gradient, logits.dtype), default, default), [logits], [loss], trains: false);
        return loss;
    }

    /// <summary>Adds the chunk's loss to <paramref name="total"/> and returns the gradient of its sum, which may take the product's memory.</summary>
    private Tensor? CrossEntropy(Tensor product, Tensor targets, Tensor total, double smoothing, bool wantsGradient)
    {
        var logits = Shape(product);
        logits = LinearProduct.Cast(logits, ScalarType.Float32);
        var normaliser = logits.logsumexp(1, keepdim: true);
        total.add_(normaliser.sum()).sub_(logits.gather(1, targets).sum().mul_(1 - smoothing));
        if (smoothing > 0)
        {
            total.sub_(logits.mean([1]).sum().mul_(smoothing));
        }

        if (!wantsGradient)
        {
            return null;
        }

        var slope = SoftCap is { } cap ? logits.div(cap).pow_(2).neg_().add_(1) : null;
        var gradient = logits.sub_(normaliser).exp_();
        gradient.scatter_add_(1, targets, full_like(targets, smoothing - 1, ScalarType.Float32));
        if (smoothing > 0)
        {
            gradient.sub_(smoothing / projection.Outputs);
        }

        gradient = slope is null ? gradient : gradient.mul_(slope);
        return Scale == 1 ? gradient : gradient.mul_(Scale);
    }

    /// <summary>Gradients that were formed with the loss, waiting for the factor that comes down.</summary>
    private sealed class LossPiece : Piece
    {
        private readonly double scale;
        private readonly Tensor? gradient;
        private readonly (Parameter? Parameter, Tensor? Gradient)[] trained;

        public LossPiece(
            double scale, Tensor? gradient, (Parameter? Parameter, Tensor? Gradient) weight, (Parameter? Parameter, Tensor? Gradient) bias)
        {
            this.scale = scale;
            this.gradient = gradient is null ? null : KeepOwn(gradient);
            trained = [weight, bias];
            foreach (var (_, own) in trained)
            {
                if (own is not null)
                {
                    KeepOwn(own);
                }
            }
        }

        public override void Backward(PieceGradients gradients)
        {
            var factor = gradients.Output().mul(scale);
            if (gradient is not null)
            {
                gradients.Add(0, gradient.mul_(factor.to(gradient.dtype)).alias());
            }

            foreach (var (parameter, own) in trained)
            {
                if (own is not null)
                {
                    parameter!.Gradient!.add_(own.mul_(factor));
                }
            }
        }
    }
}
