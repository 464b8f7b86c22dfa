using System.Collections;

using static TorchSharp.torch;

namespace TorchSharp.Utils;

/// <summary>Reads and writes the elements of a tensor in the CPU's memory, in its logical order whatever its strides.</summary>
/// <typeparam name="T">The element type's counterpart.</typeparam>
public sealed unsafe class TensorAccessor<T> : IDisposable, IEnumerable<T>
    where T : unmanaged
{
    private readonly Tensor tensor;
    private readonly T* start;
    private readonly long[] shape;
    private readonly long[] strides;

    internal TensorAccessor(Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CPU)
        {
            throw new InvalidOperationException("Reading data from non-CPU memory is not supported. Move or copy the tensor to the cpu before reading.");
        }

        this.tensor = tensor;
        shape = tensor.shape;
        strides = tensor.stride();
        Count = tensor.numel();
        start = Count == 0 ? null : (T*)Native.Check(Native.peft_data(tensor.Handle));
    }

    public long Count { get; }

    public bool IsReadOnly => false;

    public T this[params long[] indices]
    {
        get => start[Offset(indices)];
        set => start[Offset(indices)] = value;
    }

    public T[] ToArray()
    {
        var result = new T[Count];
        CopyTo(result.AsSpan());
        return result;
    }

    public void CopyTo(T[] array, int arrayIndex = 0, long tensorIndex = 0) => CopyTo(array.AsSpan(), arrayIndex, tensorIndex);

    public void CopyTo(Span<T> array, int arrayIndex = 0, long tensorIndex = 0)
    {
        var count = (int)Math.Min(array.Length - arrayIndex, Count - tensorIndex);
        if (tensor.is_contiguous())
        {
            new ReadOnlySpan<T>(start + tensorIndex, count).CopyTo(array[arrayIndex..]);
            return;
        }

        for (var i = 0; i < count; i++)
        {
            array[arrayIndex + i] = start[Offset(tensorIndex + i)];
        }
    }

    public void CopyFrom(T[] array, int arrayIndex = 0, long tensorIndex = 0) =>
        CopyFrom((ReadOnlySpan<T>)array, arrayIndex, tensorIndex);

    public void CopyFrom(ReadOnlySpan<T> array, int arrayIndex = 0, long tensorIndex = 0)
    {
        var count = (int)Math.Min(array.Length - arrayIndex, Count - tensorIndex);
        for (var i = 0; i < count; i++)
        {
            start[Offset(tensorIndex + i)] = array[arrayIndex + i];
        }
    }

    public IEnumerator<T> GetEnumerator()
    {
        for (long i = 0; i < Count; i++)
        {
            yield return At(i);
        }
    }

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    /// <summary>Nothing to do: the tensor belongs to whoever made it.</summary>
    public void Dispose()
    {
    }

    private T At(long index) => start[Offset(index)];

    private long Offset(long[] indices)
    {
        if (indices.Length == 1)
        {
            return Offset(indices[0]);
        }

        long offset = 0;
        for (var i = 0; i < shape.Length; i++)
        {
            if (indices[i] < 0 || indices[i] >= shape[i])
            {
                throw new IndexOutOfRangeException($"{indices[i]} >= {shape[i]} in dimension {i}.");
            }

            offset += indices[i] * strides[i];
        }

        return offset;
    }

    private long Offset(long index)
    {
        if (index >= Count || index < 0)
        {
            throw new IndexOutOfRangeException($"{index} in a tensor of {Count} elements.");
        }

        long offset = 0;
        for (var i = shape.Length - 1; i >= 0; i--)
        {
            (index, var position) = Math.DivRem(index, shape[i]);
            offset += position * strides[i];
        }

        return offset;
    }
}
