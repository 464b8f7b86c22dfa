using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Keys and values of the positions a model has seen, one pair a layer, in buffers that grow by doubling.</summary>
public sealed class KeyValueCache : IDisposable
{
    private readonly Dictionary<int, (Tensor Keys, Tensor Values)> layers = [];

    /// <summary>Number of positions stored. Grows when a whole pass is finished: see <see cref="Advance"/>.</summary>
    public long Length { get; private set; }

    /// <summary>Stores a layer's new keys and values behind the <see cref="Length"/> there are, and returns views over all.</summary>
    /// <param name="layer">Index of the layer.</param>
    /// <param name="keys">[rows, heads, new, head size].</param>
    /// <param name="values">[rows, heads, new, head size].</param>
    /// <returns>Views [rows, heads, Length + new, head size].</returns>
    public (Tensor Keys, Tensor Values) Append(int layer, Tensor keys, Tensor values)
    {
        var added = keys.shape[2];
        var total = Length + added;
        if (!layers.TryGetValue(layer, out var stored) || stored.Keys.shape[2] < total)
        {
            stored = (Grow(stored.Keys, keys, total), Grow(stored.Values, values, total));
            layers[layer] = stored;
        }

        stored.Keys.narrow(2, Length, added).copy_(keys);
        stored.Values.narrow(2, Length, added).copy_(values);
        return (stored.Keys.narrow(2, 0, total), stored.Values.narrow(2, 0, total));
    }

    /// <summary>Counts the positions of a finished pass in.</summary>
    public void Advance(long positions) => Length += positions;

    /// <summary>Keeps and repeats rows by index (finished rows dropped, beams reordered).</summary>
    /// <param name="rows">int64 [new rows].</param>
    public void SelectRows(Tensor rows)
    {
        foreach (var layer in layers.Keys.ToArray())
        {
            var (keys, values) = layers[layer];
            layers[layer] = (keys.index_select(0, rows).DetachFromDisposeScope(), values.index_select(0, rows).DetachFromDisposeScope());
            keys.Dispose();
            values.Dispose();
        }
    }

    /// <summary>Forgets everything (after a switch of adapters the stored keys are another model's).</summary>
    public void Clear()
    {
        foreach (var (keys, values) in layers.Values)
        {
            keys.Dispose();
            values.Dispose();
        }

        layers.Clear();
        Length = 0;
    }

    /// <inheritdoc/>
    public void Dispose() => Clear();

    private Tensor Grow(Tensor? old, Tensor like, long total)
    {
        var shape = like.shape;
        shape[2] = Math.Max(total, Math.Max(64, old is null ? total + 64 : 2 * old.shape[2]));
        var grown = empty(shape, like.dtype, like.device).DetachFromDisposeScope();
        if (old is not null)
        {
            grown.narrow(2, 0, Length).copy_(old.narrow(2, 0, Length));
            old.Dispose();
        }

        return grown;
    }
}
