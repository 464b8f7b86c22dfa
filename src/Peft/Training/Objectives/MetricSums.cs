using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>What an objective states beside its loss, added up on the device and read once.</summary>
internal sealed class MetricSums : IDisposable
{
    private readonly Dictionary<string, (Tensor Sum, double Count)> entries = new(StringComparer.Ordinal);

    /// <summary>The sums, float32 scalars, in a fixed order.</summary>
    public IEnumerable<Tensor> Sums => entries.Values.Select(static entry => entry.Sum);

    /// <summary>Adds a sum over a number of values; none changes nothing.</summary>
    public void Add(string name, Tensor sum, double count)
    {
        if (count <= 0)
        {
            return;
        }

        using var noGrad = no_grad();
        if (entries.TryGetValue(name, out var entry))
        {
            entries[name] = (entry.Sum.add_(sum), entry.Count + count);
        }
        else
        {
            entries[name] = (sum.detach().to(ScalarType.Float32, copy: true).DetachFromDisposeScope(), count);
        }
    }

    /// <summary>The means by name, or null where nothing was stated.</summary>
    /// <param name="sums">The values of <see cref="Sums"/>.</param>
    public IReadOnlyDictionary<string, double>? Means(ReadOnlySpan<float> sums)
    {
        if (entries.Count == 0)
        {
            return null;
        }

        var means = new Dictionary<string, double>(entries.Count, StringComparer.Ordinal);
        foreach (var (name, (_, count)) in entries)
        {
            means.Add(name, sums[means.Count] / count);
        }

        return means;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (sum, _) in entries.Values)
        {
            sum.Dispose();
        }

        entries.Clear();
    }
}
