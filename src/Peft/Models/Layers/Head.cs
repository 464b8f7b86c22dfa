using Peft.Engine;
using Peft.Engine.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// From hidden states to the logits of the next token and to their cross-entropy. The loss forms logits at labelled positions alone,
/// in chunks, and with them their gradient, so that logits are never kept. The exceptions: an adapter on the output layer needs a backward pass
/// of its own, and so does a trained output layer where positions count differently; the logits of all labelled positions of a batch then stand in
/// memory at once, and their gradient.
/// </summary>
public sealed class Head
{
    // A product of few rows spends its time on laying the weights out anew; what malloc returns to the system each time comes back a page at a time.
    private const long ChunkBytes = 32 << 20;
    private const long ChunkRows = 512;

    // On a GPU each chunk reads the weights once more: a quarter of a gigabyte of logits in float32 at a time.
    private const long GpuChunkElements = 1 << 26;

    private readonly Linear _projection;

    /// <summary>Wraps the output embedding.</summary>
    public Head(Linear projection)
    {
        ArgumentNullException.ThrowIfNull(projection);
        _projection = projection;
    }

    /// <summary>Multiplies logits (Cohere's <c>logit_scale</c>, one over Granite's <c>logits_scaling</c>).</summary>
    public double Scale { get; init; } = 1;

    /// <summary>Gives what is added to logits and never trained, [1, vocabulary] (BART's <c>final_logits_bias</c>); null for nothing.</summary>
    public Func<Tensor?>? Offset { get; init; }

    /// <summary>Logits become cap · tanh(logits / cap) (Gemma 2's <c>final_logit_softcapping</c>); null for none.</summary>
    public double? SoftCap { get; init; }

    /// <summary>The logits of hidden states; not for training.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[n, vocabulary], in the hidden states' type.</returns>
    public Tensor Logits(Tensor hidden, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        return Shape(_projection.Forward(hidden, context)).MoveToOuterDisposeScope();
    }

    /// <summary>Cross-entropy of the next token, or of each position's own.</summary>
    /// <param name="hidden">[rows · length, hidden size].</param>
    /// <param name="labels">int64 [rows, length]; position t is compared with the label of t + 1; -100 is ignored.</param>
    /// <param name="divisor">What the sum over labelled positions is divided by; null for their number.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="labelSmoothing">Share of the target that is spread over the whole vocabulary.</param>
    /// <param name="offset">How many positions later a position's label stands: 1 for the next token, 0 for its own.</param>
    /// <param name="soft">What else each labelled position is to predict: a distribution over some tokens; null for nothing.</param>
    /// <returns>A scalar in float32, known to the tape. Zero where nothing is labelled.</returns>
    public Tensor Loss(Tensor hidden, Tensor labels, double? divisor, ForwardContext context, double labelSmoothing = 0, int offset = 1, SoftTargets? soft = null)
    {
        using var scope = NewDisposeScope();
        var labelled = Labelled.Of(labels, offset) with { Soft = soft };
        var scale = 1 / (divisor ?? Math.Max(1, labelled.Count));
        return Losses(hidden, labelled, scale, context, labelSmoothing).MoveToOuterDisposeScope();
    }

    /// <summary>Negative log-likelihood of every labelled position: preference losses are plain formulas of it.</summary>
    /// <param name="hidden">[rows · length, hidden size].</param>
    /// <param name="labels">int64 [rows, length], as for <see cref="Loss"/>.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="statistics">What else is wanted of the logits there.</param>
    /// <returns>float32 [rows, length - 1], known to the tape; 0 where the label is -100.</returns>
    public Tensor TokenLosses(Tensor hidden, Tensor labels, ForwardContext context, params TokenStatistic[] statistics)
    {
        using var scope = NewDisposeScope();
        return Losses(hidden, Labelled.Of(labels, 1, statistics), null, context, 0).MoveToOuterDisposeScope();
    }

    /// <summary>A label that the head has no logit for would be a native error on the processor, and the end of all work on a GPU.</summary>
    private void CheckRange(Labelled labelled)
    {
        if (labelled.Count == 0)
        {
            return;
        }

        var (least, most) = (labelled.Targets.min().item<long>(), labelled.Targets.max().item<long>());
        if (least < 0 || most >= _projection.Outputs)
        {
            var wrong = least < 0 ? least : most;
            throw new PeftException("LabelOutOfRange", FormattableString.Invariant($"The label {wrong} does not exist: the model has {_projection.Outputs} tokens."))
            {
                Target = wrong,
                RecommendedAction = "Labels are token ids, or -100 where nothing is learnt. Use the tokenizer that belongs to this model.",
            };
        }
    }

    /// <summary>The losses of labelled positions: their sum times <paramref name="scale"/>, or each in its place where that is null.</summary>
    private Tensor Losses(Tensor hidden, Labelled labelled, double? scale, ForwardContext context, double smoothing)
    {
        CheckRange(labelled);
        var isFree = (_projection.Weight.Slot?.Plan(context) ?? SlotPlan.Empty).IsEmpty;
        if (!isFree && (context.Selection.RowNames is not null || context.Selection.Spans is not null))
        {
            // A batch with an adapter for each row needs whole rows.
            return LogitLosses(RowSelection.Forward(_projection.Forward(hidden, context), labelled.Positions, context), labelled, scale, context.Tape, smoothing);
        }

        var selected = RowSelection.Forward(hidden, labelled.Positions, context);
        var isTrained = _projection.Weight.Effective(context).IsTrained || _projection.Bias?.Effective(context).IsTrained == true;
        return context.Tape is null || (isFree && (scale is not null || !isTrained))
            ? ChunkedLosses(selected, labelled, scale, isFree, context, smoothing)
            : LogitLosses(_projection.Forward(selected, context), labelled, scale, context.Tape, smoothing);
    }

    private Tensor Shape(Tensor logits)
    {
        logits = Offset?.Invoke() is { } offset ? logits.add(offset.to(logits.device).to(logits.dtype)) : logits;
        var scaled = Scale == 1 ? logits : logits.mul(Scale);
        return SoftCap is { } cap ? scaled.div(cap).tanh_().mul_(cap) : scaled;
    }

    /// <summary>How many rows of scores are computed at once on the processor.</summary>
    /// <param name="bytes">Bytes of a row.</param>
    internal static long ChunkRowsOf(long bytes) => Math.Clamp(ChunkBytes / Math.Max(1, bytes), 1, ChunkRows);

    private IEnumerable<(long Start, long Size)> Chunks(Tensor selected)
    {
        var step = selected.device_type == DeviceType.CPU
            ? ChunkRowsOf(_projection.Outputs * selected.ElementSize)
            : Math.Max(1, GpuChunkElements / _projection.Outputs);
        for (long start = 0; start < selected.size(0); start += step)
        {
            yield return (start, Math.Min(step, selected.size(0) - start));
        }
    }

    private Tensor ChunkedLosses(Tensor selected, Labelled labelled, double? scale, bool isFree, ForwardContext context, double smoothing)
    {
        if (isFree)
        {
            context.InputObserver?.Invoke(_projection, selected);
        }

        var parameter = _projection.Weight.Effective(context);
        var bias = _projection.Bias?.Effective(context);
        var type = context.Narrows(selected) ? ScalarType.BFloat16 : selected.dtype;
        var weight = parameter.Unpacked(type);
        var tape = context.Tape;
        var gradient = tape is not null && tape.NeedsGradient(selected) ? empty_like(selected) : null;
        var weightGradient = tape is not null && parameter.IsTrained ? zeros_like(parameter.Data, ScalarType.Float32) : null;
        var biasGradient = tape is not null && bias?.IsTrained == true ? zeros_like(bias.Data, ScalarType.Float32) : null;
        var keepsGradient = gradient is not null || weightGradient is not null || biasGradient is not null;
        var losses = empty(labelled.Count, ScalarType.Float32, selected.device);
        foreach (var (start, size) in Chunks(selected))
        {
            using var chunk = NewDisposeScope();
            var x = LinearProduct.Cast(selected.narrow(0, start, size), type);
            var product = !isFree ? _projection.Forward(x, context)
                : bias is null ? x.mm(weight.t())
                : addmm(LinearProduct.Cast(bias.Data, x.dtype), x, weight.t(), 1, 1);
            var logitGradient = CrossEntropy(product, labelled.Part(start, size), losses.narrow(0, start, size), smoothing, keepsGradient);
            if (logitGradient is not null)
            {
                var g = LinearProduct.Cast(logitGradient, type);
                gradient?.narrow(0, start, size).copy_(g.mm(weight));
                weightGradient?.add_(g.t().mm(x));
                biasGradient?.add_(g.sum(dim: 0));
            }
        }

        var output = labelled.Output(losses, scale);
        tape?.Record(
            new LossPiece(labelled, scale, gradient, (parameter, weightGradient), (bias, biasGradient)),
            [selected],
            [output],
            weightGradient is not null || biasGradient is not null);
        return output;
    }

    private Tensor LogitLosses(Tensor logits, Labelled labelled, double? scale, Tape? tape, double smoothing)
    {
        var losses = empty(labelled.Count, ScalarType.Float32, logits.device);
        var wanted = tape?.NeedsGradient(logits) == true;
        var gradient = CrossEntropy(wanted ? logits.clone() : logits, labelled, losses, smoothing, wanted);
        var output = labelled.Output(losses, scale);
        tape?.Record(
            new LossPiece(labelled, scale, gradient is null ? null : LinearProduct.Cast(gradient, logits.dtype), default, default), [logits], [output], trains: false);
        return output;
    }

    /// <summary>Writes the loss of each row into <paramref name="losses"/> and returns the gradients of them, which may take the product's memory.</summary>
    private Tensor? CrossEntropy(Tensor product, Labelled labelled, Tensor losses, double smoothing, bool wantsGradient)
    {
        if (SoftCap is null && Offset is null && labelled is { Statistics.Count: 0, Soft: null } && product.NumberOfElements > 0)
        {
            if (LayerLaunches.Serving(product) is { } device)
            {
                LayerLaunches.CrossEntropy(device, product, labelled.Targets, losses, (Scale, smoothing), wantsGradient);
                return wantsGradient ? product : null;
            }

            if (CpuRows.Serves(product))
            {
                CrossEntropyKernel.Form(product, labelled.Targets, losses, Scale, smoothing, wantsGradient);
                return wantsGradient ? product : null;
            }
        }

        var logits = Shape(product);
        logits = LinearProduct.Cast(logits, ScalarType.Float32);
        labelled.Observe(logits);
        if (labelled.Soft is { } soft)
        {
            return Sloped(logits, soft.Form(logits, labelled.Positions, labelled.Targets, losses, wantsGradient));
        }

        var columns = labelled.Targets.unsqueeze(1);
        var normaliser = logits.logsumexp(1, keepdim: true);
        losses.copy_(normaliser.sub(logits.gather(1, columns).mul_(1 - smoothing)).squeeze_(1));
        if (smoothing > 0)
        {
            losses.sub_(logits.mean([1]).mul_(smoothing));
        }

        if (!wantsGradient)
        {
            return null;
        }

        var slope = Slope(logits);
        var gradient = logits.sub_(normaliser).exp_();
        gradient.scatter_add_(1, columns, full_like(columns, smoothing - 1, ScalarType.Float32));
        if (smoothing > 0)
        {
            gradient.sub_(smoothing / _projection.Outputs);
        }

        return Through(slope, gradient);
    }

    private Tensor? Sloped(Tensor logits, Tensor? gradient) => gradient is null ? null : Through(Slope(logits), gradient);

    /// <summary>How fast capped scores follow those of the product; null where they do at the same rate.</summary>
    private Tensor? Slope(Tensor logits) => SoftCap is { } cap ? logits.div(cap).pow_(2).neg_().add_(1) : null;

    /// <summary>The gradient of the product's scores from that of the shaped ones, in its memory.</summary>
    private Tensor Through(Tensor? slope, Tensor gradient)
    {
        gradient = slope is null ? gradient : gradient.mul_(slope);
        return Scale == 1 ? gradient : gradient.mul_(Scale);
    }

    /// <summary>The positions of a batch that carry loss.</summary>
    /// <param name="Shape">[rows, length - offset].</param>
    /// <param name="Positions">Their hidden states, as indices of [rows · length].</param>
    /// <param name="Places">Their losses, as indices of that shape.</param>
    /// <param name="Targets">The tokens to predict there.</param>
    /// <param name="Statistics">What is wanted of the logits there beside the loss.</param>
    private sealed record Labelled(long[] Shape, Tensor Positions, Tensor Places, Tensor Targets, IReadOnlyList<TokenStatistic> Statistics)
    {
        public long Count { get; } = Targets.size(0);

        /// <summary>What else they are to predict; null for nothing.</summary>
        public SoftTargets? Soft { get; init; }

        public static Labelled Of(Tensor labels, int offset, params IReadOnlyList<TokenStatistic> statistics)
        {
            var (rows, length) = (labels.size(0), labels.size(1));
            var count = length - offset;
            var found = labels.narrow(1, offset, count).ne(-100).nonzero();
            var (row, column) = (found.select(1, 0), found.select(1, 1));
            var positions = row.mul(length).add_(column);
            foreach (var statistic in statistics)
            {
                statistic.Begin([rows, count], labels.device);
            }

            return new Labelled([rows, count], positions, row.mul(count).add_(column), labels.reshape(-1).index_select(0, positions.add(offset)), statistics);
        }

        /// <summary>Some of them.</summary>
        public Labelled Part(long start, long size) =>
            new(Shape, Positions.narrow(0, start, size), Places.narrow(0, start, size), Targets.narrow(0, start, size), Statistics) { Soft = Soft };

        /// <summary>Takes the statistics of their logits.</summary>
        public void Observe(Tensor logits)
        {
            foreach (var statistic in Statistics)
            {
                statistic.Observe(logits, Targets, Places);
            }
        }

        /// <summary>The scaled sum of the losses, or the losses in their places.</summary>
        public Tensor Output(Tensor losses, double? scale) => scale is { } factor
            ? losses.sum().mul_(factor)
            : zeros([Shape[0] * Shape[1]], ScalarType.Float32, losses.device).index_copy_(0, Places, losses).view(Shape);

        /// <summary>What each loss counts in the gradient that comes down: a scalar, or [positions, 1].</summary>
        public Tensor Factors(Tensor gradient, double? scale) => scale is { } factor
            ? gradient.mul(factor)
            : gradient.reshape(-1).index_select(0, Places).unsqueeze_(1);
    }

    /// <summary>Gradients that were formed with the losses, waiting for the factors that come down.</summary>
    private sealed class LossPiece : Piece
    {
        private readonly Labelled _labelled;
        private readonly double? _scale;
        private readonly Tensor? _gradient;
        private readonly (Parameter? Parameter, Tensor? Gradient)[] _trained;

        public LossPiece(
            Labelled labelled, double? scale, Tensor? gradient, (Parameter? Parameter, Tensor? Gradient) weight, (Parameter? Parameter, Tensor? Gradient) bias)
        {
            _labelled = scale is null ? labelled with { Places = KeepOwn(labelled.Places) } : labelled;
            _scale = scale;
            _gradient = gradient is null ? null : KeepOwn(gradient);
            _trained = [weight, bias];
            foreach (var (_, own) in _trained)
            {
                if (own is not null)
                {
                    KeepOwn(own);
                }
            }
        }

        public override void Backward(PieceGradients gradients)
        {
            var factors = _labelled.Factors(gradients.Output(), _scale);
            if (_gradient is not null)
            {
                gradients.Add(0, _gradient.mul_(factors.to(_gradient.dtype)).alias());
            }

            foreach (var (parameter, own) in _trained)
            {
                if (own is not null)
                {
                    parameter!.Gradient!.add_(own.mul_(factors));
                }
            }
        }
    }
}

/// <summary>A figure of the logits at labelled positions, through which no gradient flows (entropy, how concentrated the distribution is, whether the target is the likeliest).</summary>
/// <param name="formula">Maps logits, float32 [positions, vocabulary], and targets, int64 [positions], to one figure each; overwrites neither.</param>
public sealed class TokenStatistic(Func<Tensor, Tensor, Tensor> formula) : IDisposable
{
    private Tensor? _values;

    /// <summary>The figures, float32 [rows, length - 1]; 0 where nothing is labelled. The statistic owns them.</summary>
    public Tensor Values => _values ?? throw new InvalidOperationException("No pass has filled this statistic.");

    /// <inheritdoc/>
    public void Dispose() => _values?.Dispose();

    internal void Begin(long[] shape, Device device)
    {
        _values?.Dispose();
        _values = zeros(shape, ScalarType.Float32, device).DetachFromDisposeScope();
    }

    internal void Observe(Tensor logits, Tensor targets, Tensor places) => Values.view(-1).index_copy_(0, places, formula(logits, targets));
}
