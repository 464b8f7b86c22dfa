using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models.Placement;

/// <summary>A weight that lies elsewhere than where it is computed with: it is brought there for its block alone.</summary>
internal sealed class OffloadedWeight
{
    private readonly Parameter _parameter;
    private readonly bool _copies;
    private readonly (nint Start, long Bytes)[] _pages;
    private (Tensor? Value, PackedWeight? Packed) _home;

    /// <param name="parameter">The parameter, whose weights are there already.</param>
    /// <param name="computing">Where it is computed with.</param>
    /// <param name="mapped">Its tensors, where they are mapped from files whose pages may be dropped; empty otherwise.</param>
    /// <param name="copies">Whether computing takes a copy.</param>
    public OffloadedWeight(Parameter parameter, Device computing, IEnumerable<Tensor> mapped, bool copies)
    {
        _parameter = parameter;
        _copies = copies;
        Computing = computing;
        _pages = [.. mapped.Select(static tensor => (TensorMemory.Address(tensor), tensor.NumberOfElements * tensor.ElementSize))];
    }

    /// <summary>Where it is computed with.</summary>
    public Device Computing { get; }

    /// <summary>Whether it lies on the disk.</summary>
    public bool IsOnDisk => _pages.Length > 0;

    /// <summary>Has the system read it; from any thread.</summary>
    public void ReadAhead()
    {
        foreach (var (start, bytes) in _pages)
        {
            MappedPages.ReadAhead(start, bytes);
        }
    }

    /// <summary>Makes it ready to be computed with.</summary>
    public void Enter()
    {
        if (_copies)
        {
            using var scope = NewDisposeScope();
            var value = _parameter.Value?.to(Computing, copy: true).DetachFromDisposeScope();
            _home = _parameter.Exchange(value, _parameter.Packed?.Moved(tensor => tensor.to(Computing, copy: true)));
        }
    }

    /// <summary>Leaves it where it lies, and nowhere else; also where it didn't get here.</summary>
    public void Leave()
    {
        if (_home is not (null, null))
        {
            var (value, packed) = _parameter.Exchange(_home.Value, _home.Packed);
            value?.Dispose();
            packed?.Dispose();
            _home = default;
        }

        Drop();
    }

    /// <summary>Takes its pages out of memory, where it lies on the disk.</summary>
    public void Drop()
    {
        foreach (var (start, bytes) in _pages)
        {
            MappedPages.Drop(start, bytes);
        }
    }
}
