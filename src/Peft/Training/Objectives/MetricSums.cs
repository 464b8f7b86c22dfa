using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>What an objective states beside its loss, added up on the device and read once.</summary>
internal sealed class MetricSums : IDisposable
{
    private readonly Dictionary<string, (Tensor Sum, double Count)> _entries = new(StringComparer.Ordinal);

    /// <summary>The sums, float32 scalars, in a fixed order.</summary>
    public IEnumerable<Tensor> Sums => _entries.Values.Select(static entry => entry.Sum);

    /// <summary>Adds a sum over a number of values; none changes nothing.</summary>
    public void Add(string name, Tensor sum, double count)
    {
        if (count <= 0)
        {
            return;
        }

        using var noGrad = no_grad();
        if (_entries.TryGetValue(name, out var entry))
        {
            _entries[name] = (entry.Sum.add_(sum), entry.Count + count);
        }
        else
        {
            _entries[name] = (sum.detach().to(ScalarType.Float32, copy: true).DetachFromDisposeScope(), count);
        }
    }

    /// <summary>The means by name, or null where nothing was stated.</summary>
    /// <param name="sums">The values of <see cref="Sums"/>.</param>
    public IReadOnlyDictionary<string, double>? Means(ReadOnlySpan<float> sums)
    {
        if (_entries.Count == 0)
        {
            return null;
        }

        var means = new Dictionary<string, double>(_entries.Count, StringComparer.Ordinal);
        foreach (var (name, (_, count)) in _entries)
        {
            means.Add(name, sums[means.Count] / count);
        }

        return means;
    }

    /// <inheritdoc/>
    public void Dispose() => Clear();

    /// <summary>Forgets what was added.</summary>
    public void Clear()
    {
        foreach (var (sum, _) in _entries.Values)
        {
            sum.Dispose();
        }

        _entries.Clear();
    }
}
