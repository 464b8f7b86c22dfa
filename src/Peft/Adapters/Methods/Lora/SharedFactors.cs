using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// Two layers that share their weight and have one change of it (<c>ensure_weight_tying</c>). Each has factors of its own, for a file has both; what is trained is one
/// pair, with the gradients of both summed up, and the other follows it after each step. An embedding's factors are those of the output layer, exchanged and transposed.
/// </summary>
internal sealed class SharedFactors
{
    private readonly LoraLayer _owner;
    private readonly LoraLayer _follower;
    private readonly bool _isExchanged;

    private SharedFactors(LoraLayer owner, LoraLayer follower)
    {
        (_owner, _follower) = (owner, follower);
        _isExchanged = owner.Layer is Embedding != follower.Layer is Embedding;
    }

    /// <summary>The pairs among an adapter's layers; an embedding leads where there is one.</summary>
    public static IReadOnlyList<SharedFactors> Of(IEnumerable<AdaptedLayer> layers) =>
    [
        .. from layer in layers
           where layer.Adapter is LoraLayer
           group (LoraLayer)layer.Adapter by layer.Layer.Weight.TiedTo ?? layer.Layer.Weight into sharing
           let owner = sharing.FirstOrDefault(static layer => layer.Layer is Embedding) ?? sharing.First()
           from follower in sharing
           where follower != owner
           select new SharedFactors(owner, follower),
    ];

    /// <summary>Refuses what one change can't be made of.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    public void RefuseUnfit()
    {
        var what = _owner.BaseEdit is not null ? "a start that leaves the base another weight"
            : Pairs().Any(static pair => !pair.Own.Shape.SequenceEqual(pair.IsTurned ? pair.Of.Shape.Reverse() : pair.Of.Shape)) ? "different ranks"
            : null;
        if (what is not null)
        {
            throw new PeftException("AdapterConfigContradictory", $"ensure_weight_tying gives '{_owner.Layer.Path}' and '{_follower.Layer.Path}', which share their weight, one change: it can't be used with {what}.")
            {
                Target = _follower.Layer.Path,
            };
        }
    }

    /// <summary>Gives the follower the leader's factors.</summary>
    /// <param name="needed">Which parameters want values.</param>
    public void Start(Predicate<Parameter> needed)
    {
        foreach (var (own, of, isTurned) in Pairs().Where(pair => needed(pair.Own) && needed(pair.Of)))
        {
            own.Assign((isTurned ? of.Data.t() : of.Data).contiguous().clone());
        }
    }

    /// <summary>Adds the follower's gradients to the leader's, and leaves it none.</summary>
    public void SumGradients()
    {
        foreach (var (own, of, isTurned) in Pairs())
        {
            if (own.Gradient is { } gradient && of.Gradient is { } sum)
            {
                sum.add_(isTurned ? gradient.t() : gradient);
                gradient.zero_();
            }
        }
    }

    /// <summary>Lets the follower go where the leader went.</summary>
    public void Follow()
    {
        foreach (var (own, of, isTurned) in Pairs())
        {
            own.Data.copy_(isTurned ? of.Data.t() : of.Data);
            own.MarkChanged();
        }
    }

    private (Parameter Own, Parameter Of, bool IsTurned)[] Pairs() => _isExchanged
        ? [(_follower.A, _owner.B, true), (_follower.B, _owner.A, true)]
        : [(_follower.A, _owner.A, false), (_follower.B, _owner.B, false)];
}
