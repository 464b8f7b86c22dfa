using Peft.Engine;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// Linear layers that share an input (q, k, v; gate, up) as one product. Their weights are views of one tensor, so each keeps its name
/// and its slot; packed weights are unpacked one below the other for it. Where that does not hold (an adapter that changes the input, an
/// overlay, a weight that was replaced, a packed form with a product of its own), they run one by one and their outputs are put side by side. It has no name in the tree: the module that makes it
/// (<see cref="Module.Group"/>) frees it.
/// </summary>
public sealed class LinearGroup : IDisposable
{
    private readonly Linear[] _members;
    private readonly Tensor[] _views;
    private readonly Tensor[] _biasViews;
    private Tensor? _weight;
    private Tensor? _bias;
    private bool _isPacked;

    // The values that are to be joined when the group is first used; null where nothing waits.
    private Tensor?[]? _waiting;

    // Those of them that are memory of a file.
    private Tensor[] _mapped = [];

    /// <summary>Makes a group; it runs its members one by one until <see cref="Fuse()"/>.</summary>
    /// <param name="members">Layers in the order of their columns in the output.</param>
    internal LinearGroup(params Linear[] members)
    {
        ArgumentNullException.ThrowIfNull(members);
        _members = members;
        _views = new Tensor[members.Length];
        _biasViews = new Tensor[members.Length];
    }

    /// <summary>The layers, in the order of their columns in the output.</summary>
    public IReadOnlyList<Linear> Members => _members;

    /// <summary>
    /// Puts the members' weights into one tensor and gives each its view; weights that lie one behind the other already stay where they are.
    /// Nothing happens where it is done already, where types differ or only some have a bias.
    /// </summary>
    public void Fuse()
    {
        var mapped = _mapped;
        (_waiting, _mapped) = (null, []);
        if ((_isPacked ? ArePacked() : _weight is not null && IsFused(_views, static member => member.Weight)) && (_bias is null || IsFused(_biasViews, static member => member.Bias!)))
        {
            return;
        }

        Dispose();
        var biases = _members.Count(static member => member.Bias is not null);
        _isPacked = ArePacked() && (biases == 0 || biases == _members.Length);
        if (_isPacked)
        {
            _bias = biases == 0 ? null : Fuse([.. _members.Select(static member => member.Bias!)], _biasViews, mapped);
            return;
        }

        if (_members.Any(static member => member.Weight.Value is null || !member.Weight.IsOwner || member.Weight.IsOffloaded)
            || _members.Select(static member => member.Weight.DataType).Distinct().Count() > 1
            || (biases > 0 && biases < _members.Length))
        {
            return;
        }

        _weight = Fuse([.. _members.Select(static member => member.Weight)], _views, mapped);
        _bias = biases == 0 ? null : Fuse([.. _members.Select(static member => member.Bias!)], _biasViews, mapped);
    }

    /// <summary>Has the weights put into one tensor when the group is first used, unless they were replaced by then: a model that was loaded, but not computed with, costs no copy.</summary>
    /// <param name="isMapped">Whether a tensor's memory is that of a file.</param>
    internal void FuseWhenUsed(Func<Tensor, bool> isMapped)
    {
        _waiting = Values();
        _mapped = [.. _waiting.OfType<Tensor>().Where(isMapped)];
    }

    /// <summary>Makes the tensor that the members share, without values: for a loader that reads them straight into it.</summary>
    /// <param name="type">Type of the weights.</param>
    /// <param name="device">Where they go.</param>
    /// <returns>The parameters whose values are views of it now; none where only some members have a bias.</returns>
    internal IEnumerable<Parameter> Allocate(ScalarType type, Device device)
    {
        Dispose();
        var biases = _members.Select(static member => member.Bias).OfType<Parameter>().ToArray();
        if (biases.Length > 0 && biases.Length < _members.Length)
        {
            return [];
        }

        Parameter[] weights = [.. _members.Select(static member => member.Weight)];
        _weight = Share(empty([weights.Sum(static part => part.Shape[0]), weights[0].Shape[1]], type, device), weights, _views);
        _bias = biases.Length == 0 ? null : Share(empty([biases.Sum(static part => part.Shape[0])], type, device), biases, _biasViews);
        return [.. weights, .. biases];
    }

    /// <summary>Runs the members on one input.</summary>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows, sum of the members' outputs], in the order of the members.</returns>
    public Tensor Forward(Tensor x, ForwardContext context)
    {
        if (_waiting is { } waiting)
        {
            _waiting = null;
            if (Values().SequenceEqual(waiting, ReferenceEqualityComparer.Instance))
            {
                using var noGradients = no_grad();
                Fuse();
            }
        }

        if ((_weight is not null || _isPacked) && Shared(context) is { } shared)
        {
            _members[0].CheckInput(x);
            if (context.InputObserver is { } observe)
            {
                foreach (var member in _members)
                {
                    observe(member, x);
                }
            }

            return LinearProduct.Run(x, _weight, _bias, shared, context);
        }

        var outputs = new Tensor[_members.Length];
        for (var i = 0; i < _members.Length; i++)
        {
            outputs[i] = _members[i].Forward(x, context);
        }

        return Concatenation.Forward(outputs, context);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _weight?.Dispose();
        _bias?.Dispose();
        _weight = null;
        _bias = null;
        (_waiting, _mapped) = (null, []);
        _isPacked = false;
    }

    private Tensor?[] Values() => [.. _members.Select(static member => member.Weight.Value), .. _members.Select(static member => member.Bias?.Value)];

    /// <summary>The members of the shared product, or null where this pass needs them one by one.</summary>
    private LinearMember[]? Shared(ForwardContext context)
    {
        var shared = new LinearMember[_members.Length];
        for (var i = 0; i < _members.Length; i++)
        {
            var member = _members[i];
            var plan = member.Weight.Slot?.Plan(context) ?? SlotPlan.Empty;
            shared[i] = member.Member(context, plan);
            if (plan.NeedsForward
                || (_isPacked ? shared[i].Weight.Packed is null : !ReferenceEquals(shared[i].Weight.Value, _views[i]))
                || (_bias is not null && !ReferenceEquals(shared[i].Bias!.Value, _biasViews[i])))
            {
                return null;
            }
        }

        return shared;
    }

    private bool ArePacked() => _members.All(member => member.Weight is { IsOwner: true, Packed: { HasProduct: false } packed } && packed.ComputeType == _members[0].Weight.Packed!.ComputeType);

    private bool IsFused(Tensor[] own, Func<Linear, Parameter> parameter) =>
        _members.Zip(own).All(pair => ReferenceEquals(parameter(pair.First).Value, pair.Second));

    private static Tensor Fuse(Parameter[] parts, Tensor[] views, Tensor[] mapped)
    {
        using var scope = NewDisposeScope();
        if (Behind(parts) is { } joined)
        {
            for (var i = 0; i < parts.Length; i++)
            {
                views[i] = parts[i].Data;
            }

            return joined.DetachFromDisposeScope();
        }

        var copy = cat([.. parts.Select(static part => part.Data)], 0);
        foreach (var value in parts.Select(static part => part.Data).Where(value => Array.Exists(mapped, one => ReferenceEquals(one, value))))
        {
            // The copy is what is computed with; the file's pages would stay beside it.
            MappedPages.Drop(TensorMemory.Address(value), value.NumberOfElements * value.ElementSize);
        }

        return Share(copy, parts, views);
    }

    /// <summary>The parts as one tensor where they lie one behind the other in one piece of memory, such as a mapped file; otherwise null.</summary>
    private static Tensor? Behind(Parameter[] parts)
    {
        var first = parts[0].Data;
        if (first.device_type != DeviceType.CPU || !Array.TrueForAll(parts, static part => part.Data.is_contiguous()))
        {
            return null;
        }

        // Where addresses and offsets into the memory both go on, the memory is the same.
        var (address, offset) = (TensorMemory.Address(first), first.storage_offset());
        foreach (var part in parts)
        {
            if (TensorMemory.Address(part.Data) != address || part.Data.storage_offset() != offset)
            {
                return null;
            }

            (address, offset) = (address + (nint)(part.Count * part.Data.ElementSize), offset + part.Count);
        }

        long[] shape = [parts.Sum(static part => part.Shape[0]), .. first.shape[1..]];
        return first.as_strided(shape, first.stride(), first.storage_offset());
    }

    private static Tensor Share(Tensor fused, Parameter[] parts, Tensor[] views)
    {
        using var scope = NewDisposeScope();
        long start = 0;
        for (var i = 0; i < parts.Length; i++)
        {
            views[i] = fused.narrow(0, start, parts[i].Shape[0]).DetachFromDisposeScope();
            parts[i].Assign(views[i]);
            start += parts[i].Shape[0];
        }

        return fused.DetachFromDisposeScope();
    }
}
