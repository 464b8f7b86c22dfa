using Peft.Adapters.Conversion;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Slots;

/// <summary>What an adapter did to one layer: it sits in the slot of that layer's weight and knows the arithmetic of its method, nothing else.</summary>
/// <remarks>
/// <see cref="Before"/> and <see cref="After"/> alone make a method complete: in training the slot runs them as plain pieces.
/// A method whose change is a product of two factors gives them as <see cref="LowRank"/> instead, and the layer computes all of them at once.
/// </remarks>
public abstract class LayerAdapter(IAdaptable layer) : IDisposable
{
    /// <summary>The adapted layer.</summary>
    public IAdaptable Layer { get; } = layer;

    /// <summary>Whether <see cref="Before"/> does anything; layers that share an input can then no longer share one product.</summary>
    public virtual bool ChangesInput => false;

    /// <summary>Whether the method may act on some rows of a batch alone.</summary>
    public virtual bool RowSelectable => false;

    /// <summary>Why this layer can't be merged, or null when it can.</summary>
    public virtual string? MergeObstacle => null;

    /// <summary>
    /// What the adapter does to the layer's own weight, in its own layout, while it is part of the model, active or not; null for nothing, which is usual.
    /// Asked for once the parameters have their first values. The weight is the same again, bit for bit, when the adapter is removed.
    /// </summary>
    public virtual Func<Tensor, Tensor>? BaseEdit => null;

    /// <summary>What multiplies the change that the parameters are factors of.</summary>
    public virtual double ChangeScale => 1;

    /// <summary>The parameters with the rest of their key in an adapter file, such as <c>lora_A.weight</c>.</summary>
    public abstract IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>What <see cref="Before"/> and <see cref="After"/> read and may be trained: beside its own parameters those it shares, or the layer's bias.</summary>
    /// <param name="context">The forward pass.</param>
    public virtual IEnumerable<Parameter> Reads(ForwardContext context) => Parameters.Select(static entry => entry.Parameter);

    /// <summary>Gives the parameters the values with which the method starts.</summary>
    /// <param name="generator">Source of random numbers.</param>
    public abstract void Initialise(Generator generator);

    /// <summary>The change as two factors, or null when it isn't one.</summary>
    /// <param name="weight">Strength from the selection; 1 is as trained.</param>
    public virtual LowRank? LowRank(float weight) => null;

    /// <summary>The change as a linear layer computes it at once, with what stands between its factors or scales the outputs; null where it is nothing of the kind.</summary>
    /// <param name="weight">Strength from the selection; 1 is as trained.</param>
    public virtual LowRank? Fused(float weight) => LowRank(weight);

    /// <summary>
    /// Whether <see cref="Merge(Affine, Affine)"/> says all that the adapter does in a pass, and a linear layer is to form its product with the weight that it gives where
    /// tokens are trained on: for changes that cost as much as the layer itself. The bias stays as it is.
    /// </summary>
    /// <param name="context">The forward pass.</param>
    public virtual bool ActsInWeight(ForwardContext context) => false;

    /// <summary>
    /// The change of the weight as it was loaded as a product that holds it exactly, what a start took out of the base in it; null where it is no such product,
    /// or one that isn't smaller than the change. In the caller's dispose scope.
    /// </summary>
    internal virtual ChangeFactors? ExactFactors() => null;

    /// <summary>Changes the input on its way in. Called only when <see cref="ChangesInput"/>.</summary>
    /// <param name="x">[..., in], as the adapter outside of this one left it.</param>
    /// <param name="call">The pass.</param>
    public virtual Tensor Before(Tensor x, SlotCall call) => x;

    /// <summary>Changes the output on its way out.</summary>
    /// <param name="x">The input as it reached this adapter; for an embedding int64 token ids.</param>
    /// <param name="y">[..., out], as the layer and the adapters inside of this one made it.</param>
    /// <param name="call">The pass.</param>
    public abstract Tensor After(Tensor x, Tensor y, SlotCall call);

    /// <summary><see cref="After"/> in a pass with a tape: by autograd over itself alone, unless the method has a backward pass of its own there.</summary>
    /// <param name="tape">The tape.</param>
    /// <param name="x">As in <see cref="After"/>.</param>
    /// <param name="y">As in <see cref="After"/>.</param>
    /// <param name="call">The pass.</param>
    internal virtual Tensor AfterOn(Tape tape, Tensor x, Tensor y, SlotCall call)
    {
        // Token ids are no tensor that a gradient could flow to, so they aren't on the tape.
        return x.is_floating_point()
            ? tape.Autograd(given => After(given[0], given[1], call), [x, y], [.. Reads(call.Context)])
            : tape.Autograd(given => After(x, given[0], call), [y], [.. Reads(call.Context)]);
    }

    /// <summary>Puts the change into the weights; what it returns computes the same as <see cref="Before"/>, the layer and <see cref="After"/> together.</summary>
    /// <param name="current">The layer's weights with the adapters inside of this one merged, in the precision of the merge; may be edited in place.</param>
    /// <param name="bare">The layer's own weights, without any adapter; not to be edited.</param>
    public abstract Affine Merge(Affine current, Affine bare);

    /// <summary>The same at a strength, as <see cref="Before"/> and <see cref="After"/> have it: the change grows with it unless a method says otherwise.</summary>
    /// <param name="current">As in <see cref="Merge(Affine, Affine)"/>.</param>
    /// <param name="bare">As in <see cref="Merge(Affine, Affine)"/>.</param>
    /// <param name="strength">1 is as trained.</param>
    public virtual Affine Merge(Affine current, Affine bare, float strength)
    {
        if (strength == 1f)
        {
            return Merge(current, bare);
        }

        var (weight, bias) = (current.Weight.clone(), current.Bias?.clone());
        var merged = Merge(current, bare);
        return new Affine(weight.lerp(merged.Weight, strength), bias is null ? merged.Bias : bias.lerp(merged.Bias!, strength));
    }

    /// <summary>The layer's own weight without any adapter (an overlay in its place counts), for the dispose scope of the call alone: it may be unpacked for it.</summary>
    /// <param name="call">The pass.</param>
    /// <param name="type">The type to compute in.</param>
    protected Tensor BareWeight(SlotCall call, ScalarType type) => Layer.Weight.Effective(call.Context).Unpacked(type);

    /// <summary>The layer's own bias without any adapter, or null.</summary>
    /// <param name="call">The pass.</param>
    /// <param name="type">The type to compute in.</param>
    protected Tensor? BareBias(SlotCall call, ScalarType type) => Layer.Bias is { } bias ? LinearProduct.Cast(bias.Effective(call.Context).Data, type) : null;

    /// <summary>The layer's own map of an input, without its bias and without any adapter.</summary>
    /// <param name="x">The input.</param>
    /// <param name="call">The pass.</param>
    /// <param name="type">The type to compute in.</param>
    protected Tensor BaseProduct(Tensor x, SlotCall call, ScalarType type) => Layer.Apply(x, BareWeight(call, type), null);

    /// <summary>Frees what the layer has beside its parameters.</summary>
    private protected virtual void Release()
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var entry in Parameters)
        {
            entry.Parameter.Release();
        }

        Release();
        GC.SuppressFinalize(this);
    }
}

/// <summary>A parameter of a layer's adapter.</summary>
/// <param name="Key">The part of its key in an adapter file that follows the module's path, such as <c>lora_A.weight</c>.</param>
/// <param name="Parameter">The parameter, float32 whatever the base's type.</param>
/// <param name="Role">What becomes of it.</param>
public readonly record struct LayerParameter(string Key, Parameter Parameter, ParameterRole Role = ParameterRole.Trained)
{
    /// <summary>Whether an adapter's file has it under this key; false where another layer's key stands for it.</summary>
    public bool IsSaved { get; init; } = true;
}

/// <summary>One pass through a slot as a layer's adapter sees it.</summary>
/// <param name="Slot">The slot, by which siblings can be read.</param>
/// <param name="Context">The forward pass.</param>
/// <param name="Weight">Strength from the selection; 1 is as trained.</param>
public readonly record struct SlotCall(AdapterSlot Slot, ForwardContext Context, float Weight);

/// <summary>The weights of a layer that maps x to x · Weightᵀ + Bias (or, for Conv1D, x · Weight + Bias).</summary>
/// <param name="Weight">In the layer's own layout.</param>
/// <param name="Bias">[out], or null when the layer has none.</param>
public readonly record struct Affine(Tensor Weight, Tensor? Bias);
