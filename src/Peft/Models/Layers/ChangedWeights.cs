using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// The weights of layers that share an input where changes act in them. What autograd needs of a weight is kept from the forward pass to the backward pass where that is
/// little beside the layer's output; otherwise the weight is formed again, so that no second copy of all weights is held.
/// </summary>
internal sealed class ChangedWeights
{
    /// <summary>Weights of which a few copies are less than the output.</summary>
    private const int Copies = 4;

    private readonly LinearMember[] _members;
    private readonly Tensor? _base;
    private readonly ForwardContext _context;
    private readonly Tensor?[]? _formed;
    private readonly Tensor? _whole;

    private ChangedWeights(LinearMember[] members, Tensor? weight, ForwardContext context, bool keeps)
    {
        _members = members;
        _base = weight;
        _context = context with { Tape = null };
        if (keeps)
        {
            _formed = Form();
            _whole = Joined(_formed);
        }
    }

    /// <summary>Forms the weights where any member has a change; null otherwise.</summary>
    /// <param name="rows">Rows of the input.</param>
    /// <param name="weight">The members' own weights, [out of all members, in].</param>
    /// <param name="members">The members.</param>
    /// <param name="context">The forward pass.</param>
    public static ChangedWeights? Of(long rows, Tensor? weight, LinearMember[] members, ForwardContext context) =>
        Array.Exists(members, static member => member.Change is not null)
            ? new ChangedWeights(members, weight, context, context.Tape is not null && Copies * weight!.shape[1] <= rows)
            : null;

    /// <summary>The weights, [out of all members, in], in the caller's dispose scope where they aren't kept.</summary>
    public Tensor Whole() => _whole ?? Joined(Form());

    /// <summary>Hands over the tensors that live until the backward pass.</summary>
    public void Keep(Action<Tensor> keep, Func<Tensor, Tensor> alias)
    {
        foreach (var formed in _formed ?? [])
        {
            if (formed is not null)
            {
                keep(formed);
            }
        }

        if (_whole is not null)
        {
            keep(_whole);
        }

        _ = _base is null ? null : alias(_base);
    }

    /// <summary>Adds the gradients of the changes' parameters and gives that of the input.</summary>
    /// <param name="g">Gradient of the output.</param>
    /// <param name="x">The input.</param>
    /// <param name="needsInput">Whether the input's gradient is wanted.</param>
    public Tensor? Backward(Tensor g, Tensor x, bool needsInput)
    {
        var formed = _formed ?? Form();
        var gx = needsInput ? g.mm(LinearProduct.Cast(_whole ?? Joined(formed), g.dtype)) : null;
        long column = 0;
        for (var i = 0; i < _members.Length; i++)
        {
            var width = _members[i].Width;
            if (formed[i] is { requires_grad: true } weight)
            {
                AutogradPiece.Add(weight, LinearProduct.Cast(g.narrow(1, column, width).t().mm(x), weight.dtype), _members[i].Change!.Trained);
            }

            column += width;
        }

        return gx;
    }

    private Tensor?[] Form()
    {
        using var gradients = enable_grad();
        return [.. _members.Select(member => member.Change?.Form(_context))];
    }

    private Tensor Joined(Tensor?[] formed)
    {
        if (formed is [{ } only])
        {
            return only.detach();
        }

        long row = 0;
        var parts = new Tensor[formed.Length];
        for (var i = 0; i < parts.Length; i++)
        {
            var width = _members[i].Width;
            parts[i] = formed[i]?.detach() ?? _base!.narrow(0, row, width);
            row += width;
        }

        return cat(parts, 0);
    }
}
