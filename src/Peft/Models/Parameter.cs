using Peft.Models.Placement;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// A named array of weights in one module. It has a shape and a type from the moment the model's structure exists
/// and a tensor only once weights are loaded, so that the tree of a 70B model costs a few megabytes.
/// </summary>
/// <remarks>
/// Everything that acts on a weight (adapters, overlays, merges, quantisation) attaches to this object through <see cref="Slot"/>.
/// Two modules that share a weight have a parameter each, the second one <see cref="TiedTo"/> the first,
/// so that an adapter on one of them does not reach the other.
/// </remarks>
public sealed class Parameter
{
    private readonly long[] _shape;
    private ScalarType _dataType;
    private Tensor? _value;
    private Tensor? _gradient;
    private PackedWeight? _packed;
    private Tensor? _lowered;
    private int _loweredVersion;
    private OffloadedWeight? _offloaded;

    /// <summary>Makes a parameter without weights.</summary>
    /// <param name="name">Local name inside its module, such as <c>weight</c>.</param>
    /// <param name="shape">Sizes, outermost first.</param>
    /// <param name="dataType">Element type the weights have or will have.</param>
    public Parameter(string name, IReadOnlyList<long> shape, ScalarType dataType = ScalarType.Float32)
    {
        Name = name;
        _shape = [.. shape];
        _dataType = dataType;
    }

    /// <summary>Local name inside its module, such as <c>weight</c>.</summary>
    public string Name { get; }

    /// <summary>Sizes, outermost first.</summary>
    public IReadOnlyList<long> Shape => _shape;

    /// <summary>Whether the weights are float32 whatever type the model computes in (decays of recurrences, norms that say so).</summary>
    public bool KeepsFloat32 { get; init; }

    /// <summary>Number of elements.</summary>
    public long Count => TensorEntry.Product(_shape);

    /// <summary>Element type of the weights.</summary>
    public ScalarType DataType => TiedTo is { } other ? other.DataType : _dataType;

    /// <summary>The parameter of another module whose weights this one shares, or null.</summary>
    public Parameter? TiedTo { get; private set; }

    /// <summary>The weights, or null while only the structure exists or where they are <see cref="Packed"/>. The parameter owns what is assigned.</summary>
    public Tensor? Value => TiedTo is { } other ? other.Value : _value;

    /// <summary>The weights in a form that takes less memory, or null. <see cref="Value"/> is null then.</summary>
    public PackedWeight? Packed => TiedTo is { } other ? other.Packed : _packed;

    /// <summary>Whether there are weights, packed or not.</summary>
    public bool IsLoaded => Value is not null || Packed is not null;

    /// <summary>Where the weights are computed with; the CPU while only the structure exists.</summary>
    public Device Device => Offloaded?.Computing ?? Value?.device ?? Packed?.Device ?? CPU;

    /// <summary>What brings the weights to where they are computed with, where they lie elsewhere; null usually.</summary>
    internal OffloadedWeight? Offloaded => TiedTo is { } other ? other.Offloaded : _offloaded;

    /// <summary>Whether the weights lie elsewhere than where they are computed with: in the processor's memory or on the disk.</summary>
    public bool IsOffloaded => Offloaded is not null;

    /// <summary>Memory the weights take.</summary>
    public long Bytes => Packed?.Bytes ?? (Count * ElementType.SizeOf(DataType));

    /// <summary>The weights.</summary>
    /// <exception cref="PeftException"><c>WeightsNotLoaded</c>: only the structure exists. <c>WeightsPacked</c>: they are quantised, and what asks works on plain weights alone.</exception>
    public Tensor Data => Value ?? throw (Packed is { } form
        ? new PeftException("WeightsPacked", $"This needs plain weights, but those of the model ('{Name}', [{string.Join(", ", _shape)}]) are quantised ({form.Kind}).")
        {
            Target = Name,
            RecommendedAction = "Import the model without quantisation for this.",
        }
        : new PeftException("WeightsNotLoaded", $"The model's weights are needed, but only its structure was loaded (no values for '{Name}').") { Target = Name });

    /// <summary>
    /// Where the backward pass adds this parameter's gradient: a view into the trainer's flat buffer, of the shape of
    /// <see cref="Value"/>, or null when the parameter is frozen. Parameters that share weights share their gradient.
    /// </summary>
    public Tensor? Gradient
    {
        get => TiedTo is { } other ? other.Gradient : _gradient;
        set
        {
            if (TiedTo is { } other)
            {
                other.Gradient = value;
                return;
            }

            if (value is not null)
            {
                RefuseOffloaded("trained");
            }

            _gradient = value;
        }
    }

    /// <summary>Whether the backward pass adds up a gradient for this parameter.</summary>
    public bool IsTrained => Gradient is not null;

    /// <summary>What adapters put on this parameter; null until something is attached, so an empty slot costs one null check.</summary>
    public Slot? Slot { get; set; }

    /// <summary>What was done to the weights since they were loaded and can be taken back; null where nothing was.</summary>
    internal EditStack? Edits { get; set; }

    /// <summary>Rises whenever the weights are replaced or edited, so that a kept form of them (packed, quantised) can tell that it is out of date.</summary>
    public int Version { get; private set; }

    /// <summary>Whether the weights are this parameter's own: not tied to another's.</summary>
    public bool IsOwner => TiedTo is null;

    /// <summary>Takes over <paramref name="weights"/> and disposes what was there before.</summary>
    /// <exception cref="PeftException"><c>ShapeMismatch</c>: the shape differs from <see cref="Shape"/>.</exception>
    public void Assign(Tensor weights)
    {
        if (!weights.shape.AsSpan().SequenceEqual(_shape))
        {
            throw new PeftException(
                "ShapeMismatch",
                $"'{Name}' has shape [{string.Join(", ", _shape)}], but the weights given have [{string.Join(", ", weights.shape)}].");
        }

        TiedTo = null;
        _offloaded = null;
        if (!ReferenceEquals(_value, weights))
        {
            _value?.Dispose();
            _value = weights.DetachFromDisposeScope();
        }

        _packed?.Dispose();
        _packed = null;

        _dataType = weights.dtype;
        Version++;
    }

    /// <summary>Takes packed weights over in place of what was there before.</summary>
    /// <exception cref="PeftException"><c>ShapeMismatch</c>: the shape differs from <see cref="Shape"/>.</exception>
    public void Pack(PackedWeight weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        if (!(weights.IsTransposed ? [.. weights.Shape.SkipLast(2), weights.Shape[^1], weights.Shape[^2]] : weights.Shape).SequenceEqual(_shape))
        {
            throw new PeftException(
                "ShapeMismatch", $"'{Name}' has shape [{string.Join(", ", _shape)}], but the packed weights given are [{string.Join(", ", weights.Shape)}].");
        }

        TiedTo = null;
        _offloaded = null;
        _value?.Dispose();
        _value = null;
        _packed?.Dispose();
        _packed = weights;
        _dataType = weights.DataType;
        Version++;
    }

    /// <summary>Says that the weights lie elsewhere than where they are computed with.</summary>
    internal void Offload(OffloadedWeight weight) => _offloaded = weight;

    /// <summary>Puts the same weights from elsewhere in the place of those there are, which go to the caller.</summary>
    internal (Tensor? Value, PackedWeight? Packed) Exchange(Tensor? value, PackedWeight? packed)
    {
        var before = (_value, _packed);
        (_value, _packed) = (value, packed);
        return before;
    }

    /// <summary>Refuses to change weights that lie elsewhere: what is written to them would be lost.</summary>
    /// <param name="what">What is to be done with them, as a participle.</param>
    /// <exception cref="PeftException"><c>WeightsOffloaded</c>.</exception>
    internal void RefuseOffloaded(string what)
    {
        if (IsOffloaded)
        {
            throw new PeftException("WeightsOffloaded", $"The model's weights ('{Name}', [{string.Join(", ", _shape)}]) can't be {what}: they are offloaded ({(Offloaded!.IsOnDisk ? "to the disk" : "to the processor")}), and are only read from there.") { Target = Name };
        }
    }

    /// <summary>Gives packed weights away, so that what replaces them doesn't free them.</summary>
    internal PackedWeight TakePacked()
    {
        var taken = _packed!;
        _packed = null;
        return taken;
    }

    /// <summary>The weights in a type for a short time: themselves, or unpacked into memory that is used again afterwards.</summary>
    /// <param name="type">The type to compute in.</param>
    public DenseWeight Dense(ScalarType type)
    {
        if (Packed is not { } form)
        {
            return new DenseWeight(Layers.LinearProduct.Cast(Data, type));
        }

        var lease = PackedWeight.Lease([form], type);
        return form.IsTransposed ? lease.Transposed() : lease;
    }

    /// <summary>The weights in a type for as long as the caller likes: themselves, or unpacked into memory of their own, of the caller's dispose scope.</summary>
    /// <param name="type">The type to compute in.</param>
    public Tensor Unpacked(ScalarType type)
    {
        return Packed is { } form ? Unpacked(form, type) : Layers.LinearProduct.Cast(Data, type);
    }

    /// <summary>The weights as they were loaded, without any edit, as <see cref="Unpacked(ScalarType)"/> gives them.</summary>
    /// <param name="type">The type to compute in.</param>
    internal Tensor Loaded(ScalarType type) => Edits?.Loaded(type) ?? Unpacked(type);

    /// <summary>Packed weights in a type.</summary>
    internal static Tensor Unpacked(PackedWeight form, ScalarType type)
    {
        var values = empty([.. form.Shape], type, form.Device);
        form.Unpack(values);
        return form.IsTransposed ? values.transpose(-2, -1) : values;
    }

    /// <summary>The weights in a type: themselves, the copy that <see cref="Lower"/> gave of them, or a copy of the caller's dispose scope.</summary>
    /// <param name="type">The type to compute in.</param>
    internal Tensor In(ScalarType type) =>
        TiedTo is { } other ? other.In(type) : _lowered is { } copy && _loweredVersion == Version && copy.dtype == type ? copy : Layers.LinearProduct.Cast(Data, type);

    /// <summary>Gives a copy of the weights in another type, which counts until they change. It belongs to the caller, who takes it back by null.</summary>
    internal void Lower(Tensor? copy) => (_lowered, _loweredVersion) = (copy, Version);

    /// <summary>Shares the weights of <paramref name="other"/> from now on; own weights are disposed.</summary>
    public void TieTo(Parameter other)
    {
        _value?.Dispose();
        _value = null;
        _packed?.Dispose();
        _packed = null;
        _offloaded = null;
        TiedTo = other.TiedTo ?? other;
        Version++;
    }

    /// <summary>Takes over weights with another number of rows, without disposing those that were there; whoever shares them is told by <see cref="ResizeAs"/>.</summary>
    /// <param name="rows">Rows from now on.</param>
    /// <param name="weights">The weights; null while only the structure exists.</param>
    /// <returns>What was there.</returns>
    internal Tensor? Resize(long rows, Tensor? weights)
    {
        RefuseOffloaded("given other rows");
        var before = _value;
        _shape[0] = rows;
        _value = weights?.DetachFromDisposeScope();
        Version++;
        return before;
    }

    /// <summary>Has as many rows as the parameter whose weights it shares.</summary>
    internal void ResizeAs(Parameter other)
    {
        _shape[0] = other._shape[0];
        Version++;
    }

    /// <summary>Says that the weights were edited in place.</summary>
    public void MarkChanged() => Version++;

    /// <summary>The parameter that acts under this context: an adapter's overlay (modules to save, trained biases) or this one.</summary>
    public Parameter Effective(ForwardContext context) => Slot?.Overlay(context) ?? this;

    /// <summary>Frees the weights; the structure stays.</summary>
    public void Release()
    {
        Edits?.Forget();
        _offloaded = null;
        _value?.Dispose();
        _value = null;
        _packed?.Dispose();
        _packed = null;
        Version++;
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Name} [{string.Join(", ", _shape)}] {DataType}";
}
