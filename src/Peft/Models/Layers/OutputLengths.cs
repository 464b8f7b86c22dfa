using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// Trained lengths of outputs (DoRA): y becomes magnitude / ‖row of the changed weight‖ · y, without the bias. The length that is divided by is a constant for
/// gradients; it is taken once a pass.
/// </summary>
internal sealed class OutputLengths
{
    private readonly LowRankTerm[] _terms;
    private readonly Tensor _before;
    private readonly Tensor _factor;
    private readonly Tensor[] _lengths;

    private OutputLengths(LowRankTerm[] terms, Tensor before, Tensor factor, Tensor[] lengths)
    {
        _terms = terms;
        _before = before;
        _factor = factor;
        _lengths = lengths;
    }

    /// <summary>Scales a product whose low-rank changes are in it.</summary>
    /// <param name="y">[rows, out of all members], without bias; the caller's.</param>
    /// <param name="terms">The changes.</param>
    /// <param name="members">The members.</param>
    /// <param name="weight">Their own weights, one below the other; null where they are packed.</param>
    /// <returns>The scaled product, and what the backward pass needs.</returns>
    public static (Tensor Y, OutputLengths State) Forward(Tensor y, LowRankTerm[] terms, LinearMember[] members, Tensor? weight)
    {
        LowRankTerm[] scaled = [.. terms.Where(static term => term.Change.Magnitude is not null)];
        var lengths = scaled.Select(term => Lengths(term, weight?.narrow(0, term.Column, term.Width) ?? Own(members, term))).ToArray();
        var factor = scaled.Length == 1 && scaled[0].Width == y.size(1) ? Factor(0) : ones([y.size(1)], ScalarType.Float32, y.device);
        for (var i = 0; i < scaled.Length && scaled[i].Width < y.size(1); i++)
        {
            factor.narrow(0, scaled[i].Column, scaled[i].Width).copy_(Factor(i));
        }

        return (LinearProduct.Cast(y.mul(factor), y.dtype), new OutputLengths(scaled, y, factor, lengths));

        Tensor Factor(int index) => scaled[index].Change.Magnitude!.Data.div(lengths[index]);
    }

    /// <summary>Hands over the tensors that live until the backward pass.</summary>
    public void Keep(Action<Tensor> keep)
    {
        keep(_before);
        keep(_factor);
        Array.ForEach(_lengths, keep);
    }

    /// <summary>Adds the gradients of the lengths.</summary>
    /// <param name="g">Gradient of the scaled product.</param>
    /// <returns>The gradient of the product before.</returns>
    public Tensor Backward(Tensor g)
    {
        for (var i = 0; i < _terms.Length; i++)
        {
            var (column, width) = (_terms[i].Column, _terms[i].Width);
            _terms[i].Change.Magnitude!.Gradient?.add_(g.narrow(1, column, width).mul(_before.narrow(1, column, width)).sum([0], type: ScalarType.Float32).div_(_lengths[i]));
        }

        return LinearProduct.Cast(g.mul(_factor), g.dtype);
    }

    private static Tensor Lengths(LowRankTerm term, Tensor weight)
    {
        var change = term.Change;
        var changed = addmm(LinearProduct.Cast(weight, ScalarType.Float32), change.FactorB(ScalarType.Float32), change.FactorA(ScalarType.Float32), 1, (float)change.Scale);
        return changed.mul_(changed).sum(1).sqrt();
    }

    private static Tensor Own(LinearMember[] members, LowRankTerm term)
    {
        long column = 0;
        foreach (var member in members)
        {
            if (column == term.Column)
            {
                var weight = member.Weight.Unpacked(ScalarType.Float32);
                return member.IsTransposed ? weight.t() : weight;
            }

            column += member.Width;
        }

        throw new InvalidOperationException("A change stands at the first column of a member.");
    }
}
