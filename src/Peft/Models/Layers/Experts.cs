using Peft.Engine.Steps;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>The sizes of a layer's experts.</summary>
/// <param name="Count">Number of experts.</param>
/// <param name="Width">Width of the hidden states.</param>
/// <param name="InnerSize">Width inside an expert.</param>
internal sealed record ExpertSizes(long Count, long Width, long InnerSize)
{
    /// <summary>Whether weights are [experts, inputs, outputs] (gpt-oss); otherwise [experts, outputs, inputs].</summary>
    public bool IsTransposed { get; init; }

    /// <summary>Whether products have biases.</summary>
    public bool HasBias { get; init; }
}

/// <summary>
/// Gated MLPs of which each token visits some: down_e(act(gate_e(x)) · up_e(x)), weighed and summed. The weights of all experts are one
/// parameter for each of the two products; the tokens of an expert stand together, so that its product is one. Each of the two parameters
/// has its own slot.
/// </summary>
internal class Experts : Module
{
    private readonly ExpertWeight _gateUp;
    private readonly ExpertWeight _down;
    private readonly Activation _activation;

    /// <summary>Makes experts without weights.</summary>
    /// <param name="sizes">The sizes.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="activation">The activation.</param>
    /// <param name="listsActivation">Whether it stands in the tree.</param>
    public Experts(ExpertSizes sizes, string className, Activation activation, bool listsActivation = true)
        : base(className)
    {
        _gateUp = Weights("gate_up_proj", sizes, sizes.Width, 2 * sizes.InnerSize);
        _down = Weights("down_proj", sizes, sizes.InnerSize, sizes.Width);
        _activation = listsActivation ? Add("act_fn", activation) : activation;
    }

    /// <inheritdoc/>
    public override IAdaptable? AdaptableOf(Parameter parameter) =>
        parameter == _gateUp.Weight ? _gateUp : parameter == _down.Weight ? _down : base.AdaptableOf(parameter);

    /// <summary>Runs the experts.</summary>
    /// <param name="x">[rows, width].</param>
    /// <param name="residual">Of the same shape: what the result is added to; null for nothing.</param>
    /// <param name="routing">Where tokens go.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, Tensor? residual, Routing routing, ForwardContext context)
    {
        var source = Source(x, residual, routing, context);
        var sum = (source is null ? null : OfOneToken(x, source)) ?? Compute(x, residual ?? ResidualSum.Zero(x, context), routing, context with { Recorder = null });
        if (context.Recorder is { } recorder)
        {
            LayerSteps.Experts(recorder, x, sum, source);
        }

        return sum;
    }

    /// <summary>The operations of a recorded step by themselves; null where there are none.</summary>
    private static Tensor? OfOneToken(Tensor x, ExpertSource source)
    {
        var y = empty_like(x);
        if (StepKernels.Of(x)?.Experts(x, y, source) is not { } operations)
        {
            y.Dispose();
            return null;
        }

        using var program = new StepProgram(operations);
        program.Run();
        return y;
    }

    private Tensor Compute(Tensor x, Tensor residual, Routing routing, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var rows = ExpertRows.From(routing.Experts, _gateUp.Weight.Shape[0], context);
        var visits = RowSelection.Forward(x, rows.Tokens, context);
        var inner = Activate(_gateUp.Forward(visits, rows, context), context);
        return WeighedSum.Forward(_down.Forward(inner, rows, context), routing.Weights, residual, rows, context).MoveToOuterDisposeScope();
    }

    /// <summary>What kernels compute of one token; null where an adapter acts on experts, something is trained, or there are none.</summary>
    private ExpertSource? Source(Tensor x, Tensor? residual, Routing routing, ForwardContext context) =>
        routing.Choice is { } choice && Gate is { } gate && !context.Narrows(x) && !is_grad_enabled()
        && _gateUp.Product(context) is { } gateUp && _down.Product(context) is { } down
            ? new ExpertSource(choice, routing.Logits, gateUp, gate, down, residual)
            : null;

    /// <summary>What stands between the two products, for one token; null where there is no kernel for it.</summary>
    private protected virtual ExpertGate? Gate => _activation.Form is { } form ? new PlainExpertGate(form) : null;

    /// <summary>act(gate) · up.</summary>
    /// <param name="projections">What the first product gave, [rows, 2 · inner size].</param>
    /// <param name="context">The forward pass.</param>
    protected virtual Tensor Activate(Tensor projections, ForwardContext context) => GatedActivation.Forward(projections, _activation, context);

    private ExpertWeight Weights(string name, ExpertSizes sizes, long inputs, long outputs)
    {
        var weight = AddParameter(name, sizes.IsTransposed ? [sizes.Count, inputs, outputs] : [sizes.Count, outputs, inputs]);
        var bias = sizes.HasBias ? AddParameter(name + "_bias", [sizes.Count, outputs]) : null;
        return new ExpertWeight(this, weight, bias, sizes.IsTransposed);
    }
}

/// <summary>The tokens of a pass in the order of the experts they visit.</summary>
/// <param name="Tokens">Index of the token in each place, int64 [rows · chosen].</param>
/// <param name="Visits">Which of all visits, [rows, chosen] one after another, stands in each place, int64 [rows · chosen].</param>
/// <param name="Counts">How many places each expert has.</param>
public sealed record ExpertRows(Tensor Tokens, Tensor Visits, IReadOnlyList<long> Counts)
{
    /// <summary>Sorts the visits of a pass; the indices live as long as its tape.</summary>
    /// <param name="experts">Experts that each token visits, int64 [rows, chosen].</param>
    /// <param name="count">Number of experts.</param>
    /// <param name="context">The forward pass.</param>
    internal static ExpertRows From(Tensor experts, long count, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var flat = experts.reshape(-1);
        var visits = flat.argsort(dim: 0);
        var tokens = visits.div(experts.size(1), RoundingMode.floor);
        var counts = new long[count];
        foreach (var expert in flat.cpu().data<long>())
        {
            counts[expert]++;
        }

        visits.MoveToOuterDisposeScope();
        tokens.MoveToOuterDisposeScope();
        context.Tape?.Share(visits);
        context.Tape?.Share(tokens);
        return new ExpertRows(tokens, visits, counts);
    }

    /// <summary>First place and number of places of each expert that has any.</summary>
    internal IEnumerable<(int Expert, long Start, long Count)> Parts()
    {
        long start = 0;
        for (var expert = 0; expert < Counts.Count; expert++)
        {
            if (Counts[expert] > 0)
            {
                yield return (expert, start, Counts[expert]);
                start += Counts[expert];
            }
        }
    }
}

/// <summary>The weights of all experts for one product, as layers and adapters see them.</summary>
internal sealed class ExpertWeight(Module module, Parameter weight, Parameter? bias, bool isTransposed) : IAdaptable
{
    public Module Module => module;

    public Parameter Weight => weight;

    public Parameter? Bias => bias;

    public long Inputs => weight.Shape[isTransposed ? 1 : 2];

    public long Outputs => weight.Shape[isTransposed ? 2 : 1];

    public bool IsTransposed => isTransposed;

    public long Experts => weight.Shape[0];

    /// <summary>One expert's map.</summary>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var y = x.mm(isTransposed ? weight : weight.t());
        return bias is null ? y : y + bias;
    }

    public Tensor FromMatrix(Tensor matrix) => isTransposed ? matrix.transpose(-2, -1) : matrix;

    public Tensor ToMatrix(Tensor weight) => isTransposed ? weight.transpose(-2, -1) : weight;

    /// <summary>What the product is made of; null where an adapter acts on it.</summary>
    public ExpertProduct? Product(ForwardContext context) => (weight.Slot?.Plan(context) ?? SlotPlan.Empty).IsEmpty
        ? new ExpertProduct(weight.Effective(context), bias?.Effective(context), isTransposed)
        : null;

    /// <summary>Multiplies every row by its expert's weight.</summary>
    public Tensor Forward(Tensor x, ExpertRows rows, ForwardContext context)
    {
        var plan = weight.Slot?.Plan(context) ?? SlotPlan.Empty;
        if (plan.IsEmpty)
        {
            return Product(x, rows, context);
        }

        return weight.Slot!.Forward(x, context with { ExpertRows = rows }, (input, inner) => Product(input, rows, inner));
    }

    private Tensor Product(Tensor x, ExpertRows rows, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var own = weight.Effective(context);
        var ownBias = bias?.Effective(context);
        var y = empty([x.size(0), Outputs], x.dtype, x.device);
        var input = context.Narrowed(x);
        foreach (var (expert, start, count) in rows.Parts())
        {
            using var part = NewDisposeScope();
            var visits = input.narrow(0, start, count);
            var product = Packed(own, expert) is { } packed
                ? PackedProduct.Forward(visits, null, [packed], null, context)
                : visits.mm(Matrix(own, expert, input.dtype).t());
            y.narrow(0, start, count).copy_(ownBias is null ? product : product.add_(ownBias.Data[expert]));
        }

        context.Tape?.Record(new ProductPiece(this, x, own, ownBias, rows, context), [x], [y], own.IsTrained || ownBias?.IsTrained == true);
        return y.MoveToOuterDisposeScope();
    }

    // [outputs, inputs].
    private Tensor Matrix(Parameter own, int expert, ScalarType type) => LinearProduct.Cast(ToMatrix(own.Data.select(0, expert)), type);

    private static PackedWeight? Packed(Parameter own, int expert) => own.Packed?.Expert(expert);

    private sealed class ProductPiece : Piece
    {
        private readonly ExpertWeight _layer;
        private readonly Tensor _x;
        private readonly Parameter _weight;
        private readonly Parameter? _bias;
        private readonly ExpertRows _rows;
        private readonly ForwardContext _context;

        public ProductPiece(ExpertWeight layer, Tensor x, Parameter weight, Parameter? bias, ExpertRows rows, ForwardContext context)
        {
            _context = context;
            _layer = layer;
            _x = Keep(x);
            _weight = weight;
            _bias = bias;
            _rows = rows;
        }

        public override void Backward(PieceGradients gradients)
        {
            var all = _context.Narrowed(gradients.Output());
            var x = _context.Narrowed(_x);
            var gx = gradients.Needs() ? empty_like(_x) : null;
            foreach (var (expert, start, count) in _rows.Parts())
            {
                using var scope = NewDisposeScope();
                var g = all.narrow(0, start, count);
                gx?.narrow(0, start, count).copy_(Packed(_weight, expert) is { } packed ? PackedProduct.InputGradient(g, [packed]) : g.mm(_layer.Matrix(_weight, expert, g.dtype)));
                if (_weight.Gradient is { } own)
                {
                    _layer.ToMatrix(own.select(0, expert)).add_(g.t().mm(x.narrow(0, start, count)));
                }

                _bias?.Gradient?.select(0, expert).add_(g.sum(dim: 0));
            }

            if (gx is not null)
            {
                gradients.Add(0, gx);
            }
        }
    }
}

/// <summary>residual + the outputs of the experts that each token visited, weighed.</summary>
internal static class WeighedSum
{
    /// <summary>Runs it.</summary>
    /// <param name="outputs">In the order of experts, [rows · chosen, width].</param>
    /// <param name="weights">[rows, chosen].</param>
    /// <param name="residual">[rows, width].</param>
    /// <param name="rows">The order.</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Forward(Tensor outputs, Tensor weights, Tensor residual, ExpertRows rows, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var ordered = weights.reshape(-1).index_select(0, rows.Visits).unsqueeze(1);
        var sum = residual.clone().index_add_(0, rows.Tokens, outputs.mul(ordered), 1);
        context.Tape?.Record(new SumPiece(outputs, ordered, weights.shape, rows), [outputs, weights, residual], [sum], trains: false);
        return sum.MoveToOuterDisposeScope();
    }

    private sealed class SumPiece : Piece
    {
        private readonly Tensor _outputs;
        private readonly Tensor _ordered;
        private readonly long[] _shape;
        private readonly ExpertRows _rows;

        public SumPiece(Tensor outputs, Tensor ordered, long[] shape, ExpertRows rows)
        {
            _outputs = Keep(outputs);
            _ordered = Keep(ordered);
            _shape = shape;
            _rows = rows;
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            var each = g.index_select(0, _rows.Tokens);
            if (gradients.Needs(1))
            {
                var along = each.mul(_outputs).sum(-1);
                gradients.Add(1, empty_like(along).index_copy_(0, _rows.Visits, along).view(_shape));
            }

            gradients.Add(0, each.mul_(_ordered));
            gradients.Add(2, g, owned: false);
        }
    }
}
