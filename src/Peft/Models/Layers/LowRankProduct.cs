using Peft.Engine;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// All low-rank changes of layers that share an input: one product with every A, one in-place product for each B (Hu et al. 2021).
/// Where dropout acts, each change has its own mask and its own product with A, as in PEFT.
/// </summary>
internal sealed class LowRankProduct
{
    private readonly LowRankTerm[] _terms;
    private readonly Tensor _stacked;
    private readonly Tensor _products;
    private readonly Tensor?[]? _masks;

    private readonly AdapterSpan? _span;

    private LowRankProduct(LowRankTerm[] terms, Tensor stacked, Tensor products, Tensor?[]? masks, AdapterSpan? span)
    {
        _span = span;
        _terms = terms;
        _stacked = stacked;
        _products = products;
        _masks = masks;
    }

    /// <summary>All A one below the other, [ranks, in].</summary>
    public Tensor Stacked => _stacked;

    /// <summary>x Aᵀ of all, [rows, ranks].</summary>
    public Tensor Products => _products;

    /// <summary>Adds every change to <paramref name="y"/> in place: those that act on the same positions together.</summary>
    /// <returns>What the backward pass needs, in the caller's dispose scope.</returns>
    public static IReadOnlyList<LowRankProduct> Forward(Tensor x, Tensor y, LowRankTerm[] terms, ForwardContext context)
    {
        if (context.Selection.Spans is null)
        {
            return [Forward(x, y, terms, context, null)];
        }

        List<LowRankProduct> all = [];
        foreach (var own in terms.GroupBy(static term => term.Change.Span))
        {
            long rank = 0;
            var placed = own.ToArray();
            for (var i = 0; i < placed.Length; i++)
            {
                placed[i] = placed[i] with { RankStart = rank };
                rank += placed[i].Rank;
            }

            all.Add(Forward(Part(x, own.Key), Part(y, own.Key), placed, context, own.Key));
        }

        return all;
    }

    private static Tensor Part(Tensor all, AdapterSpan? span) => span is { } own ? all.narrow(0, own.Start, own.Count) : all;

    private static LowRankProduct Forward(Tensor x, Tensor y, LowRankTerm[] terms, ForwardContext context, AdapterSpan? span)
    {
        var generator = span is { } stretch ? context.Generators.GetValueOrDefault(stretch.Name) : context.Generator;
        var type = x.dtype;
        var down = Stack(terms, type);
        Tensor?[]? drawn = null;
        Tensor inner;
        if (context.IsTraining && Array.Exists(terms, static term => term.Change.Dropout > 0))
        {
            drawn = [.. terms.Select(term => Mask(x, term.Change.Dropout, generator))];
            inner = cat([.. terms.Select((term, i) => Masked(x, drawn[i]).mm(down.narrow(0, term.RankStart, term.Rank).t()))], 1);
        }
        else
        {
            inner = x.mm(down.t());
        }

        for (var i = 0; i < terms.Length; i++)
        {
            var term = terms[i];
            var slice = y.narrow(1, term.Column, term.Width);
            var b = term.Change.FactorB(type);
            Add(slice, inner.narrow(1, term.RankStart, term.Rank), b.t(), Scale(term, drawn?[i]), context.ProductType == ScalarType.BFloat16);
            if (term.Change.Bias is { } bias)
            {
                slice.add_(bias.Data, term.Change.Scale);
            }
        }

        return new LowRankProduct(terms, down, inner, drawn, span);
    }

    /// <summary>Hands over the tensors that must live until the backward pass.</summary>
    public void Keep(Action<Tensor> keep)
    {
        keep(_stacked);
        keep(_products);
        foreach (var mask in _masks ?? [])
        {
            if (mask is not null)
            {
                keep(mask);
            }
        }
    }

    /// <summary>Adds the gradients of the factors, and to the gradient of the input.</summary>
    /// <param name="g">Gradient of the output, [rows, out].</param>
    /// <param name="x">The input.</param>
    /// <param name="gx">Gradient of the input so far, added to in place; null when none is wanted.</param>
    public void Backward(Tensor g, Tensor? x, Tensor? gx)
    {
        (g, x, gx) = (Part(g, _span), x is null ? null : Part(x, _span), gx is null ? null : Part(gx, _span));
        var inner = empty_like(_products);
        for (var i = 0; i < _terms.Length; i++)
        {
            var term = _terms[i];
            var change = term.Change;
            var slice = g.narrow(1, term.Column, term.Width);
            var scale = Scale(term, _masks?[i]);
            var b = change.FactorB(g.dtype);
            inner.narrow(1, term.RankStart, term.Rank).copy_(slice.mm(b).mul_(scale));
            change.B.Gradient?.add_(slice.t().mm(_products.narrow(1, term.RankStart, term.Rank)), scale);
            change.Bias?.Gradient?.add_(slice.sum(dim: 0), change.Scale);
        }

        if (_masks is null)
        {
            Unmasked(inner, x!, gx);
        }
        else
        {
            Masked(inner, x!, gx);
        }
    }

    private void Unmasked(Tensor inner, Tensor x, Tensor? gx)
    {
        if (Array.Exists(_terms, static term => term.Change.A.IsTrained || term.Change.Inner is { IsTrained: true }))
        {
            var all = inner.t().mm(x);
            foreach (var term in _terms)
            {
                term.Change.AddGradientOfA(all.narrow(0, term.RankStart, term.Rank));
            }
        }

        if (gx is not null)
        {
            Add(gx, inner, _stacked, 1, rounds: false);
        }
    }

    private void Masked(Tensor inner, Tensor x, Tensor? gx)
    {
        for (var i = 0; i < _terms.Length; i++)
        {
            var term = _terms[i];
            var own = inner.narrow(1, term.RankStart, term.Rank);
            term.Change.AddGradientOfA(own.t().mm(Masked(x, _masks![i])));
            gx?.add_(Masked(own.mm(_stacked.narrow(0, term.RankStart, term.Rank)), _masks![i]));
        }
    }

    /// <summary>Adds a product, which may be of a narrower type than the sum, or is rounded for itself.</summary>
    private static void Add(Tensor sum, Tensor left, Tensor right, float scale, bool rounds) =>
        _ = sum.dtype == left.dtype && !rounds ? sum.addmm_(left, right, 1, scale) : sum.add_(left.mm(right), scale);

    private static Tensor Stack(LowRankTerm[] terms, ScalarType type)
    {
        if (terms.Length == 1)
        {
            return terms[0].Change.FactorA(type).alias();
        }

        var all = new Tensor[terms.Length];
        for (var i = 0; i < terms.Length; i++)
        {
            all[i] = terms[i].Change.FactorA(type);
        }

        return cat(all, 0);
    }

    private static Tensor? Mask(Tensor x, double probability, Generator? generator) => probability <= 0
        ? null
        : RandomDraws.Kept(x, 1 - probability, generator);

    private static Tensor Masked(Tensor x, Tensor? mask) => mask is null ? x : DropoutKernel.Apply(x, mask, 1);

    // What dropout leaves is scaled up to keep the mean; the factor joins the change's own. Where it leaves nothing there is no mean to keep.
    private static float Scale(LowRankTerm term, Tensor? mask) => (float)(
        mask is null ? term.Change.Scale : term.Change.Dropout < 1 ? term.Change.Scale / (1 - term.Change.Dropout) : 0);
}
