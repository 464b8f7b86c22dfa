using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace TorchSharp;

// Tensors from sizes, ranges and memory.
public static partial class torch
{
    public static Tensor empty_strided(
        long[] size, long[] strides, ScalarType? dtype = null, Device? device = null, bool requires_grad = false, string[]? names = null) =>
        Aten.empty_strided.Tensor(size, strides, dtype ?? s_defaultType, default, InitializeDevice(device)).Tracked(requires_grad);

    public static Tensor arange(Scalar stop, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        arange(0, stop, 1, dtype, device, requires_grad);

    public static Tensor arange(Scalar start, Scalar stop, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        arange(start, stop, 1, dtype, device, requires_grad);

    public static Tensor arange(Scalar start, Scalar stop, Scalar step, ScalarType? dtype = null, Device? device = null, bool requires_grad = false)
    {
        var whole = is_integral(start.Type) && is_integral(stop.Type) && is_integral(step.Type);
        var type = dtype ?? (whole ? ScalarType.Int64 : s_defaultType);
        return Aten.arange_start_step.Tensor(start, stop, step, type, default, InitializeDevice(device)).Tracked(requires_grad);
    }

    public static Tensor eye(
        long rows, long columns = -1, ScalarType? dtype = null, Device? device = null, bool requires_grad = false, string[]? names = null) =>
        Aten.eye_m.Tensor(rows, columns < 0 ? rows : columns, dtype ?? s_defaultType, default, InitializeDevice(device)).Tracked(requires_grad);

    public static Tensor linspace(double start, double end, long steps, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        Aten.linspace.Tensor(start, end, steps, dtype ?? s_defaultType, default, InitializeDevice(device)).Tracked(requires_grad);

    public static Tensor logspace(
        double start, double end, long steps, double @base = 10, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        Aten.logspace.Tensor(start, end, steps, @base, dtype ?? s_defaultType, default, InitializeDevice(device)).Tracked(requires_grad);

    public static Tensor randperm(long n, ScalarType? dtype = null, Device? device = null, bool requires_grad = false, Generator? generator = null) =>
        Aten.randperm_generator.Tensor(n, generator, dtype ?? ScalarType.Int64, default, InitializeDevice(device)).Tracked(requires_grad);

    public static Tensor normal(Tensor mean, Tensor std, Generator? generator = null) => Aten.normal_Tensor_Tensor.Tensor(mean, std, generator);

    public static Tensor normal(
        double mean, double std, ReadOnlySpan<long> size, ScalarType? dtype = null, Device? device = null, bool requires_grad = false, Generator? generator = null, string[]? names = null) =>
        randn(size, dtype, device, false, generator).mul_(std).add_(mean).Tracked(requires_grad);

    public static Tensor tril_indices(long row, long col, long offset = 0, ScalarType dtype = ScalarType.Int64, Device? device = null) =>
        Aten.tril_indices.Tensor(row, col, offset, dtype, default, InitializeDevice(device));

    public static Tensor triu_indices(long row, long col, long offset = 0, ScalarType dtype = ScalarType.Int64, Device? device = null) =>
        Aten.triu_indices.Tensor(row, col, offset, dtype, default, InitializeDevice(device));

    /// <summary>A tensor over the array itself, which stays pinned as long as the tensor lives.</summary>
    public static Tensor from_array(Array rawArray, Device? device = null) => from_array(rawArray, null, device);

    public static Tensor from_array(
        Array rawArray, ScalarType? dtype, Device? device = null, bool requires_grad = false, string[]? names = null)
    {
        var shape = new long[rawArray.Rank];
        for (var i = 0; i < shape.Length; i++)
        {
            shape[i] = rawArray.GetLongLength(i);
        }

        return Over(rawArray, TypeOf(rawArray.GetType().GetElementType()!), shape, 0, dtype, device, requires_grad);
    }

    public static Tensor as_tensor(Array data, ScalarType? dtype = null, Device? device = null) => from_array(data, dtype, device);

    /// <summary>A tensor of one dimension over <paramref name="count"/> elements of an array from <paramref name="offset"/> on.</summary>
    public static Tensor frombuffer(Array rawArray, ScalarType dtype, long count = -1, long offset = 0, bool requires_grad = false)
    {
        if (offset < 0 || offset >= rawArray.LongLength)
        {
            throw new ArgumentException($"invalid value for 'offset': {offset}");
        }

        var available = rawArray.LongLength - offset;
        if (count > available)
        {
            throw new IndexOutOfRangeException($"element count is too large: {count}");
        }

        var type = TypeOf(rawArray.GetType().GetElementType()!);
        return Over(rawArray, type, [count < 0 ? available : count], offset * type.ElementSize(), dtype, null, requires_grad);
    }

    /// <summary>A tensor of one dimension over the first <paramref name="size"/> elements of a file, mapped; changes reach the file only where it is shared.</summary>
    public static Tensor from_file(
        string filename, bool? shared = null, long? size = 0, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        Aten.from_file.Tensor(filename, shared is bool value ? value : default(Argument), size, dtype ?? s_defaultType, default, InitializeDevice(device))
            .Tracked(requires_grad);

    private static unsafe Tensor Copy<T>(
        ReadOnlySpan<T> elements, ReadOnlySpan<long> sizes, ScalarType? dtype, Device? device, bool requiresGrad)
        where T : unmanaged
    {
        CheckCount(sizes, elements.Length);
        var result = empty(sizes, TypeOf(typeof(T)));
        MemoryMarshal.AsBytes(elements[..(int)result.numel()]).CopyTo(result.bytes);
        return Converted(result, dtype, device, requiresGrad);
    }

    private static Tensor Copy<T>(Array elements, ScalarType? dtype, Device? device, bool requiresGrad)
        where T : unmanaged
    {
        var sizes = new long[elements.Rank];
        for (var i = 0; i < sizes.Length; i++)
        {
            sizes[i] = elements.GetLongLength(i);
        }

        ref var first = ref Unsafe.As<byte, T>(ref MemoryMarshal.GetArrayDataReference(elements));
        return Copy<T>(MemoryMarshal.CreateReadOnlySpan(ref first, elements.Length), sizes, dtype, device, requiresGrad);
    }

    private static Tensor Copy<T>(IList<T> elements, ReadOnlySpan<long> sizes, ScalarType? dtype, Device? device, bool requiresGrad)
        where T : unmanaged =>
        Copy<T>((elements as T[] ?? elements.ToArray()).AsSpan(), sizes, dtype, device, requiresGrad);

    private static unsafe Tensor Over(
        Array array, ScalarType type, long[] sizes, long byteOffset, ScalarType? dtype, Device? device, bool requiresGrad)
    {
        var pin = GCHandle.Alloc(array, GCHandleType.Pinned);
        var start = (byte*)pin.AddrOfPinnedObject() + byteOffset;
        return FromMemory(start, type, sizes, new System.Buffers.MemoryHandle(start, pin), dtype, device, requiresGrad);
    }

    private static unsafe Tensor FromMemory(
        void* start, ScalarType type, ReadOnlySpan<long> sizes, IDisposable pin, ScalarType? dtype, Device? device, bool requiresGrad)
    {
        fixed (long* size = sizes)
        {
            var context = GCHandle.ToIntPtr(GCHandle.Alloc(pin));
            var handle = Native.peft_from_memory(start, size, sizes.Length, (int)type, &Release, context);
            return Converted(new Tensor(Native.Check(handle)), dtype, device, requiresGrad);
        }
    }

    [UnmanagedCallersOnly]
    private static void Release(nint context)
    {
        var handle = GCHandle.FromIntPtr(context);
        ((IDisposable)handle.Target!).Dispose();
        handle.Free();
    }

    private static void CheckCount(ReadOnlySpan<long> sizes, long available)
    {
        var total = 1L;
        foreach (var size in sizes)
        {
            total *= size;
        }

        if (total > available)
        {
            throw new ArgumentException($"mismatched total size creating a tensor from an array: {total} vs. {available}");
        }
    }

    private static Tensor Converted(Tensor tensor, ScalarType? dtype, Device? device, bool requiresGrad)
    {
        var result = tensor;
        if ((dtype is not null && dtype != tensor.dtype) || (device is not null && device.type != DeviceType.CPU))
        {
            result = tensor.to(dtype ?? tensor.dtype, InitializeDevice(device), disposeAfter: true);
        }

        return result.Tracked(requiresGrad);
    }

    private static Tensor Tracked(this Tensor tensor, bool requiresGrad) => requiresGrad ? tensor.requires_grad_() : tensor;
}
