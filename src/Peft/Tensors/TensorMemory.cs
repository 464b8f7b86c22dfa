using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>A tensor's own memory, for code that fills or empties it without a copy in between.</summary>
internal static unsafe class TensorMemory
{
    private const int ChunkBytes = 1 << 26;

    /// <summary>Delegate that fills a piece of memory with the bytes that start at an offset.</summary>
    /// <param name="target">The memory to fill.</param>
    /// <param name="offset">How many bytes came before.</param>
    public delegate void Fill(Span<byte> target, long offset);

    /// <summary>Makes a tensor and fills it; where filling fails, nothing of it is left.</summary>
    /// <param name="entry">Its shape and type.</param>
    /// <param name="fill">Fills it.</param>
    /// <returns>The tensor, contiguous and on the CPU.</returns>
    public static Tensor Create(TensorEntry entry, Action<Tensor> fill)
    {
        var tensor = empty([.. entry.Shape], entry.ScalarType);
        try
        {
            fill(tensor);
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>Where a tensor's elements begin.</summary>
    /// <param name="tensor">Contiguous and on the CPU.</param>
    /// <returns>The address, or null for a tensor without elements. Valid as long as the tensor lives.</returns>
    public static byte* Pointer(Tensor tensor)
    {
        if (tensor.NumberOfElements == 0)
        {
            return null;
        }

        if (tensor.NumberOfElements * tensor.ElementSize <= int.MaxValue)
        {
            return (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(tensor.bytes));
        }

        // A view of one element, since a span can't be longer than 2 GB.
        using var flat = tensor.view(-1);
        using var first = flat.narrow(0, 0, 1);
        return (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(first.bytes));
    }

    /// <summary>Where a tensor's elements begin, as a number; 0 for a tensor without elements.</summary>
    /// <param name="tensor">Contiguous and on the CPU.</param>
    public static nint Address(Tensor tensor) => (nint)Pointer(tensor);

    /// <summary>A tensor's elements as a span.</summary>
    /// <typeparam name="T">The element's type, of the same size as the tensor's.</typeparam>
    /// <param name="tensor">Contiguous, on the CPU, not larger than 2 GB.</param>
    /// <returns>The elements themselves, not a copy.</returns>
    public static Span<T> Span<T>(Tensor tensor)
        where T : unmanaged => MemoryMarshal.Cast<byte, T>(tensor.bytes);

    /// <summary>Fills a tensor's memory piece by piece.</summary>
    /// <param name="tensor">Contiguous and on the CPU.</param>
    /// <param name="fill">Called for consecutive pieces.</param>
    public static void CopyFrom(Tensor tensor, Fill fill)
    {
        var length = tensor.NumberOfElements * tensor.ElementSize;
        var pointer = Pointer(tensor);
        for (long offset = 0; offset < length; offset += ChunkBytes)
        {
            fill(new Span<byte>(pointer + offset, (int)Math.Min(ChunkBytes, length - offset)), offset);
        }
    }

    /// <summary>Whether two tensors hold the same, looked at piece by piece up to the first difference: what of a file lies behind it isn't read.</summary>
    /// <param name="one">Any tensor.</param>
    /// <param name="other">One of the same shape.</param>
    public static bool AreEqual(Tensor one, Tensor other)
    {
        if (one.dtype != other.dtype || !IsPlain(one) || !IsPlain(other))
        {
            using var scope = NewDisposeScope();
            return one.eq(other).all().item<bool>();
        }

        var first = Pointer(one);
        var second = Pointer(other);
        var length = one.NumberOfElements * one.ElementSize;
        var areEqual = length == other.NumberOfElements * other.ElementSize;
        for (long offset = 0; areEqual && offset < length; offset += ChunkBytes)
        {
            var count = (int)Math.Min(ChunkBytes, length - offset);
            areEqual = new ReadOnlySpan<byte>(first + offset, count).SequenceEqual(new ReadOnlySpan<byte>(second + offset, count));
        }

        GC.KeepAlive(one);
        GC.KeepAlive(other);
        return areEqual;
    }

    /// <summary>Copies a part of a tensor's bytes.</summary>
    /// <param name="tensor">Contiguous and on the CPU.</param>
    /// <param name="target">Takes them.</param>
    /// <param name="offset">The first of them.</param>
    public static void CopyTo(Tensor tensor, Span<byte> target, long offset)
    {
        new ReadOnlySpan<byte>(Pointer(tensor) + offset, target.Length).CopyTo(target);
        GC.KeepAlive(tensor);
    }

    /// <summary>Writes a tensor's elements to a stream, in row-major order.</summary>
    /// <param name="tensor">Any tensor: what isn't contiguous or on the CPU is copied first.</param>
    /// <param name="stream">Where to write.</param>
    public static void CopyTo(Tensor tensor, Stream stream)
    {
        using var detached = tensor.detach();
        using var onCpu = detached.cpu();
        using var plain = onCpu.contiguous();
        var length = plain.NumberOfElements * plain.ElementSize;
        var pointer = Pointer(plain);
        for (long offset = 0; offset < length; offset += ChunkBytes)
        {
            stream.Write(new ReadOnlySpan<byte>(pointer + offset, (int)Math.Min(ChunkBytes, length - offset)));
        }
    }

    private static bool IsPlain(Tensor tensor) => tensor.device_type == DeviceType.CPU && tensor.is_contiguous();
}
