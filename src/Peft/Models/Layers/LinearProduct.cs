using Peft.Engine;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>One of the layers that share a product: its weight, its bias and the low-rank changes that act on it.</summary>
internal readonly record struct LinearMember(Parameter Weight, Parameter? Bias, IReadOnlyList<LowRank> LowRank, bool IsTransposed = false, WeightChange? Change = null)
{
    /// <summary>Columns in the output.</summary>
    public long Width => Weight.Shape[IsTransposed ? 1 : 0];

    public bool IsTrained
    {
        get
        {
            if (Weight.IsTrained || Bias?.IsTrained == true || Change is { Trained.Count: > 0 })
            {
                return true;
            }

            foreach (var change in LowRank)
            {
                if (change.IsTrained)
                {
                    return true;
                }
            }

            return false;
        }
    }
}

/// <summary>A low-rank change and where it stands: its columns in the output, its columns in the product with all A.</summary>
internal readonly record struct LowRankTerm(LowRank Change, long Column, long Width, long RankStart, long Rank);

/// <summary>
/// y = x Wᵀ + b + residual, and the low-rank changes y[:, columns] += scale · (dropout(x) Aᵀ) Bᵀ of every member, for layers that
/// share an input. Weights of the members lie one below the other in one matrix; the A of all changes are one product.
/// </summary>
internal static class LinearProduct
{
    /// <summary>Forms the product and records its piece.</summary>
    /// <param name="x">[rows, in].</param>
    /// <param name="weight">[out of all members, in]; null where every member's weight is packed, to be unpacked in both passes.</param>
    /// <param name="bias">[out of all members] or null.</param>
    /// <param name="members">The members in the order of their rows in <paramref name="weight"/>.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="residual">[rows, out], added; null for none.</param>
    /// <returns>[rows, out of all members].</returns>
    public static Tensor Run(Tensor x, Tensor? weight, Tensor? bias, LinearMember[] members, ForwardContext context, Tensor? residual = null)
    {
        using var scope = NewDisposeScope();
        var terms = Terms(members);
        var input = context.Narrowed(x);
        var changed = ChangedWeights.Of(x.size(0), weight, members, context);
        weight = changed?.Whole() ?? weight;

        // Trained lengths scale the product before anything is added to it.
        var scales = Array.Exists(terms, static term => term.Change.Magnitude is not null);
        var addsLater = scales || input.dtype != x.dtype;
        var y = Base(input, weight, scales ? null : bias, members, context, addsLater ? null : residual);
        var state = terms.Length == 0 ? Array.Empty<LowRankProduct>() : LowRankProduct.Forward(input, y, terms, context);
        y = Cast(y, x.dtype);
        OutputLengths? lengths = null;
        if (scales)
        {
            (y, lengths) = OutputLengths.Forward(y, terms, members, weight);
            y = bias is null ? y : y.add_(Cast(bias, y.dtype));
        }

        y = addsLater && residual is not null ? y.add_(residual) : y;

        if (context.Recorder is { } recorder)
        {
            Record(recorder, x, y, changed is not null || scales ? null : new LinearSource(weight, bias, residual, members), (terms, state));
        }

        if (context.Tape is { } tape)
        {
            var trains = Array.Exists(members, static member => member.IsTrained);
            tape.Record(
                new LinearPiece(x, tape.SourceOf(x), changed, changed is null ? weight is null ? null : Cast(weight, x.dtype) : null, members, state, residual is not null, context) { Lengths = lengths },
                residual is null ? [x] : [x, residual],
                [y],
                trains);
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <summary>The tensor in a type; itself where it has it.</summary>
    public static Tensor Cast(Tensor tensor, ScalarType type) => tensor.dtype == type ? tensor : tensor.to(type);

    /// <summary>x Wᵀ + b + residual.</summary>
    public static Tensor Product(Tensor x, Tensor weight, Tensor? bias, Tensor? residual)
    {
        var transposed = weight.t();
        if (residual is not null)
        {
            var sum = addmm(residual, x, transposed, 1, 1);
            return bias is null ? sum : sum.add_(bias);
        }

        return bias is null ? x.mm(transposed) : addmm(bias, x, transposed, 1, 1);
    }

    private static void Record(StepRecorder recorder, Tensor x, Tensor y, LinearSource? source, (LowRankTerm[] Terms, IReadOnlyList<LowRankProduct> Products) changes)
    {
        if (source is { } product)
        {
            LayerSteps.Linear(recorder, x, y, product, changes);
        }
        else
        {
            recorder.Refuse();
        }
    }

    private static Tensor Base(Tensor x, Tensor? weight, Tensor? bias, LinearMember[] members, ForwardContext context, Tensor? residual)
    {
        if (weight is null)
        {
            return PackedProduct.Forward(x, bias, Packed(members), residual, context);
        }

        weight = Cast(weight, x.dtype);
        bias = bias is null ? null : Cast(bias, x.dtype);
        if (context.Tape is null && x.size(0) == 1)
        {
            var y = RowProduct.Serves(x, weight) ? RowProduct.Run(x, weight) : ColumnProduct.Serves(x, weight) ? ColumnProduct.Run(x, weight) : null;
            if (y is not null)
            {
                y = bias is null ? y : y.add_(bias);
                return residual is null ? y : y.add_(residual);
            }
        }

        return context.Widens(x)
            ? FloatProducts.Product(x, weight, bias, residual)
            : Product(x, weight, bias, residual);
    }

    /// <summary>The members' weights, all of which are packed.</summary>
    internal static PackedWeight[] Packed(LinearMember[] members) => Array.ConvertAll(members, static member => member.Weight.Packed!);

    private static LowRankTerm[] Terms(LinearMember[] members)
    {
        var count = 0;
        foreach (var member in members)
        {
            count += member.LowRank.Count;
        }

        if (count == 0)
        {
            return [];
        }

        var terms = new LowRankTerm[count];
        long column = 0, rank = 0;
        var next = 0;
        foreach (var member in members)
        {
            var width = member.Width;
            foreach (var change in member.LowRank)
            {
                terms[next++] = new LowRankTerm(change, column, width, rank, change.A.Shape[0]);
                rank += change.A.Shape[0];
            }

            column += width;
        }

        return terms;
    }
}

/// <summary>Backward pass of <see cref="LinearProduct"/>.</summary>
internal sealed class LinearPiece : Piece
{
    private readonly Tensor? _x;
    private readonly Piece? _source;
    private readonly Tensor? _weight;
    private readonly LinearMember[] _members;
    private readonly IReadOnlyList<LowRankProduct> _lowRank;
    private readonly bool _hasResidual;
    private readonly ForwardContext _context;
    private readonly ChangedWeights? _changed;

    /// <param name="x">The input.</param>
    /// <param name="source">The piece that can form it again; null to keep it where it is needed.</param>
    /// <param name="changed">The weights that the product was formed with, where changes act in them.</param>
    /// <param name="weight">The weights otherwise; null where they are packed.</param>
    /// <param name="members">The layers.</param>
    /// <param name="lowRank">Low-rank changes.</param>
    /// <param name="hasResidual">Whether a residual was added.</param>
    /// <param name="context">The forward pass.</param>
    public LinearPiece(Tensor x, Piece? source, ChangedWeights? changed, Tensor? weight, LinearMember[] members, IReadOnlyList<LowRankProduct> lowRank, bool hasResidual, ForwardContext context)
    {
        _context = context;
        _changed = changed;
        changed?.Keep(tensor => KeepOwn(tensor), Keep);
        _hasResidual = hasResidual;
        _weight = weight is null ? null : Keep(weight);
        _members = members;
        _lowRank = lowRank;
        _source = source;
        _x = source is null && NeedsInput() ? Keep(x) : null;
        foreach (var changes in lowRank)
        {
            changes.Keep(tensor => KeepOwn(tensor));
        }
    }

    /// <summary>Trained lengths of outputs, where there are any.</summary>
    public OutputLengths? Lengths
    {
        get;
        init
        {
            field = value;
            value?.Keep(tensor => KeepOwn(tensor));
        }
    }

    public override void Backward(PieceGradients gradients)
    {
        var g = gradients.Output();
        if (_hasResidual)
        {
            gradients.Add(1, g, owned: false);
        }

        var input = NeedsInput() ? _context.Narrowed(_x ?? _source!.Recompute()) : null;
        BiasGradients(g);
        var type = g.dtype;
        g = _context.Narrowed(Lengths?.Backward(g) ?? g);
        WeightGradients(g, input);
        var gx = InputGradient(g, input, gradients.Needs()) is { } found ? LinearProduct.Cast(found, type) : null;
        foreach (var changes in _lowRank)
        {
            changes.Backward(g, input, gx);
        }

        if (gx is not null)
        {
            gradients.Add(0, gx);
        }
    }

    private Tensor? InputGradient(Tensor g, Tensor? input, bool isWanted) => _changed is not null ? _changed.Backward(g, input!, isWanted)
        : !isWanted ? null
        : _weight is null ? PackedProduct.InputGradient(g, LinearProduct.Packed(_members))
        : _context.Widens(g) ? FloatProducts.InputGradient(g, _weight)
        : g.mm(LinearProduct.Cast(_weight, g.dtype));

    private bool NeedsInput() => _lowRank.Count > 0 || _changed is not null || Array.Exists(_members, static member => member.Weight.IsTrained);

    private void WeightGradients(Tensor g, Tensor? input)
    {
        long column = 0;
        foreach (var member in _members)
        {
            var width = member.Width;
            if (member.Weight.Gradient is { } weightGradient)
            {
                var own = g.narrow(1, column, width);
                weightGradient.add_(member.IsTransposed ? input!.t().mm(own) : own.t().mm(input!));
            }

            column += width;
        }
    }

    private void BiasGradients(Tensor g)
    {
        long column = 0;
        foreach (var member in _members)
        {
            var width = member.Width;
            member.Bias?.Gradient?.add_(g.narrow(1, column, width).sum(dim: 0));
            column += width;
        }
    }
}
