using System.Diagnostics.CodeAnalysis;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>What a model remembers of the positions it has seen: one state a layer, of whatever kind the layer makes.</summary>
public sealed class ModelCache : IDisposable
{
    private readonly SortedDictionary<int, LayerState> _layers = [];

    /// <summary>What is computed for each further token, recorded.</summary>
    internal Steps.StepMemory Steps { get; } = new();

    /// <summary>Number of positions stored. Grows when a whole pass is finished: see <see cref="Advance"/>.</summary>
    public long Length { get; private set; }

    /// <summary>A layer's state, made empty when it is asked for first.</summary>
    /// <typeparam name="T">The kind of state.</typeparam>
    /// <param name="layer">Index of the layer; a layer that remembers two things takes two indices.</param>
    public T State<T>(int layer)
        where T : LayerState, new()
    {
        if (_layers.TryGetValue(layer, out var found))
        {
            return (T)found;
        }

        var state = new T();
        _layers.Add(layer, state);
        return state;
    }

    /// <summary>Counts the positions of a finished pass in.</summary>
    public void Advance(long positions)
    {
        Length += positions;
        Steps.EndPass();
    }

    /// <summary>Keeps and repeats rows by index (finished rows dropped, beams reordered).</summary>
    /// <param name="rows">int64 [new rows].</param>
    public void SelectRows(Tensor rows)
    {
        Steps.Drop();
        foreach (var state in _layers.Values)
        {
            state.SelectRows(rows);
        }
    }

    /// <summary>Forgets the positions from a length on, such as guesses that were refused.</summary>
    /// <param name="length">At most <see cref="Length"/>.</param>
    /// <returns>False, with everything forgotten, where a layer's state can't go back: then the whole row has to be given again.</returns>
    public bool Rewind(long length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        foreach (var state in _layers.Values)
        {
            if (!state.Rewind(length))
            {
                Clear();
                return false;
            }
        }

        Length = length;
        return true;
    }

    /// <summary>Forgets everything (after a switch of adapters what is stored is another model's).</summary>
    public void Clear()
    {
        Steps.Dispose();
        foreach (var state in _layers.Values)
        {
            state.Dispose();
        }

        _layers.Clear();
        Length = 0;
    }

    /// <inheritdoc/>
    public void Dispose() => Clear();
}

/// <summary>What a layer remembers between passes. Its tensors have the batch's rows outermost.</summary>
public abstract class LayerState : IDisposable
{
    /// <summary>Keeps and repeats rows by index.</summary>
    /// <param name="rows">int64 [new rows].</param>
    public abstract void SelectRows(Tensor rows);

    /// <summary>Forgets the positions from a length on; false where it can't.</summary>
    public abstract bool Rewind(long length);

    /// <summary>Frees what is stored.</summary>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees what is stored.</summary>
    protected abstract void Dispose(bool disposing);
}

/// <summary>The tokens of all positions so far.</summary>
internal sealed class TokenHistory : LayerState
{
    /// <summary>Where it stands among the states of layers.</summary>
    public const int Place = -1;

    private Tensor? _ids;

    /// <summary>Stores new tokens behind those there are, and returns all.</summary>
    /// <param name="ids">int64 [rows, new].</param>
    public Tensor Append(Tensor ids) => Put(_ids is null ? ids.clone() : cat([_ids, ids], 1));

    /// <inheritdoc/>
    public override void SelectRows(Tensor rows) => Put(_ids?.index_select(0, rows));

    /// <inheritdoc/>
    public override bool Rewind(long length)
    {
        Put(_ids?.narrow(1, 0, length).clone());
        return true;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => Put(null);

    [return: NotNullIfNotNull(nameof(ids))]
    private Tensor? Put(Tensor? ids)
    {
        _ids?.Dispose();
        return _ids = ids?.DetachFromDisposeScope();
    }
}

/// <summary>Keys and values of attention, in buffers that grow by doubling.</summary>
public sealed class KeyValueState : LayerState
{
    private Tensor? _keys;
    private Tensor? _values;

    /// <summary>Stores new keys and values behind those there are, and returns views over all.</summary>
    /// <param name="newKeys">[rows, heads, new, head size].</param>
    /// <param name="newValues">[rows, heads, new, value size].</param>
    /// <param name="length">Number of positions stored so far: <see cref="ModelCache.Length"/>.</param>
    /// <returns>Views [rows, heads, length + new, …].</returns>
    public (Tensor Keys, Tensor Values) Append(Tensor newKeys, Tensor newValues, long length)
    {
        var added = newKeys.size(2);
        var total = length + added;
        if (_keys is null || _values is null || _keys.size(2) < total)
        {
            (_keys, _values) = (Grow(_keys, newKeys, length, total), Grow(_values, newValues, length, total));
        }

        _keys.narrow(2, length, added).copy_(newKeys);
        _values.narrow(2, length, added).copy_(newValues);
        return Stored(total);
    }

    /// <summary>The buffers: [rows, heads, capacity, …] each.</summary>
    internal (Tensor Keys, Tensor Values) All => _keys is null || _values is null ? throw new InvalidOperationException("Nothing is stored.") : (_keys, _values);

    /// <summary>The buffers, with room for a number of positions.</summary>
    internal (Tensor Keys, Tensor Values) Reserve(long total)
    {
        var (keys, values) = All;
        if (keys.size(2) < total)
        {
            (_keys, _values) = (Grow(keys, keys, keys.size(2), total), Grow(values, values, values.size(2), total));
        }

        return All;
    }

    /// <summary>What is stored, for layers that read another's keys and values.</summary>
    /// <param name="length">Number of positions, those of the running pass included.</param>
    /// <returns>Views [rows, heads, length, …].</returns>
    public (Tensor Keys, Tensor Values) Stored(long length) => _keys is null || _values is null
        ? throw new InvalidOperationException("Nothing is stored.")
        : (_keys.narrow(2, 0, length), _values.narrow(2, 0, length));

    /// <inheritdoc/>
    public override void SelectRows(Tensor rows)
    {
        _keys = Selected(_keys, rows);
        _values = Selected(_values, rows);
    }

    /// <inheritdoc/>
    public override bool Rewind(long length) => true;

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _keys?.Dispose();
        _values?.Dispose();
        _keys = null;
        _values = null;
    }

    private static Tensor? Selected(Tensor? old, Tensor rows)
    {
        using (old)
        {
            return old?.index_select(0, rows).DetachFromDisposeScope();
        }
    }

    private static Tensor Grow(Tensor? old, Tensor like, long length, long total)
    {
        var shape = like.shape;
        shape[2] = Math.Max(total, Math.Max(64, old is null ? total + 64 : 2 * old.size(2)));
        var grown = empty(shape, like.dtype, like.device).DetachFromDisposeScope();
        if (old is not null)
        {
            grown.narrow(2, 0, length).copy_(old.narrow(2, 0, length));
            old.Dispose();
        }

        return grown;
    }
}

/// <summary>
/// Tensors that stand for all positions seen (a recurrence's state, the last inputs of a convolution, an encoder's keys and values).
/// They can't go back to an earlier position.
/// </summary>
public sealed class TensorState : LayerState
{
    private Tensor[] _values = [];

    /// <summary>The tensors, each with the batch's rows outermost; empty before the first pass.</summary>
    public IReadOnlyList<Tensor> Values => _values;

    /// <summary>Whether the tensors stay right when positions are forgotten (what an encoder gave does).</summary>
    public bool IsConstant { get; set; }

    /// <summary>Replaces the tensors; the state owns them.</summary>
    public void Replace(params Tensor[] by)
    {
        ArgumentNullException.ThrowIfNull(by);
        var old = _values;
        _values = [.. by.Select(static tensor => tensor.DetachFromDisposeScope())];
        foreach (var tensor in old.Where(tensor => !_values.Contains(tensor)))
        {
            tensor.Dispose();
        }
    }

    /// <inheritdoc/>
    public override void SelectRows(Tensor rows) => Replace([.. _values.Select(value => value.index_select(0, rows))]);

    /// <inheritdoc/>
    public override bool Rewind(long length) => IsConstant || _values.Length == 0;

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => Replace();
}
