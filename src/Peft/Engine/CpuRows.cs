using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>A matrix in the processor's memory, for kernels of our own: rows of float32 or bfloat16, one behind the other or at a distance.</summary>
internal readonly unsafe struct CpuRows
{
    private readonly byte* _start;
    private readonly long _stride;

    private CpuRows(byte* start, long stride, bool isBFloat16)
    {
        _start = start;
        _stride = stride;
        IsBFloat16 = isBFloat16;
    }

    /// <summary>Whether elements are bfloat16; float32 otherwise.</summary>
    public bool IsBFloat16 { get; }

    /// <summary>Whether kernels of our own can work on a tensor: on the processor, float32 or bfloat16, rows without gaps.</summary>
    public static bool Serves(Tensor tensor) =>
        BitConverter.IsLittleEndian && tensor.device_type == DeviceType.CPU && (tensor.dtype is ScalarType.Float32 or ScalarType.BFloat16) && tensor.is_contiguous();

    /// <summary>A contiguous tensor's elements as rows.</summary>
    /// <param name="tensor">One that <see cref="Serves"/>. It must outlive the rows.</param>
    /// <param name="width">Elements of a row.</param>
    public static CpuRows Of(Tensor tensor, long width)
    {
        var isBFloat16 = tensor.dtype == ScalarType.BFloat16;
        return new CpuRows(TensorMemory.Pointer(tensor), width * (isBFloat16 ? 2 : 4), isBFloat16);
    }

    /// <summary>Rows in memory of a kernel's own.</summary>
    public static CpuRows At(byte* start, long width, bool isBFloat16) => new(start, width * (isBFloat16 ? 2 : 4), isBFloat16);

    /// <summary>Whether kernels of our own can work on heads: as <see cref="Serves"/>, but positions may lie apart.</summary>
    /// <param name="heads">[rows, length, heads, size].</param>
    public static bool ServesHeads(Tensor heads) =>
        BitConverter.IsLittleEndian
        && heads.device_type == DeviceType.CPU
        && (heads.dtype is ScalarType.Float32 or ScalarType.BFloat16)
        && heads.stride(3) == 1
        && heads.stride(2) == heads.size(3);

    /// <summary>The elements of heads, to be read at offsets.</summary>
    /// <param name="heads">[rows, length, heads, size], not empty; see <see cref="ServesHeads"/>.</param>
    public static CpuRows OfHeads(Tensor heads)
    {
        using var row = heads.select(0, 0);
        using var position = row.select(0, 0);
        using var first = position.select(0, 0);
        return Of(first, 0);
    }

    /// <summary>Some of the elements, as a row of their own.</summary>
    /// <param name="start">The first of them.</param>
    /// <param name="width">How many.</param>
    public CpuRows Part(long start, long width)
    {
        var size = IsBFloat16 ? 2 : 4;
        return new CpuRows(_start + (start * size), width * size, IsBFloat16);
    }

    /// <summary>The address of a row.</summary>
    public byte* Row(long row) => _start + (row * _stride);

    /// <summary>A row as float32: itself, or widened into the scratch memory.</summary>
    public Span<float> Read(long row, int width, float* scratch)
    {
        if (!IsBFloat16)
        {
            return new Span<float>(Row(row), width);
        }

        Widen((ushort*)Row(row), scratch, width);
        return new Span<float>(scratch, width);
    }

    /// <summary>Elements from an offset on as float32: themselves, or widened into the scratch memory.</summary>
    public ReadOnlySpan<float> ReadAt(long offset, int count, float* scratch)
    {
        if (!IsBFloat16)
        {
            return new ReadOnlySpan<float>((float*)_start + offset, count);
        }

        Widen((ushort*)_start + offset, scratch, count);
        return new ReadOnlySpan<float>(scratch, count);
    }

    /// <summary>Where a row's values are put before <see cref="Write"/>: in the row itself, or in the scratch memory.</summary>
    public Span<float> Target(long row, int width, float* scratch) => new(IsBFloat16 ? scratch : (float*)Row(row), width);

    /// <summary>Where values from an offset on are put before <see cref="WriteAt"/>: in their place, or in the scratch memory.</summary>
    public Span<float> TargetAt(long offset, int count, float* scratch) => new(IsBFloat16 ? scratch : (float*)_start + offset, count);

    /// <summary>Puts values back that stand in what <see cref="TargetAt"/> gave.</summary>
    public void WriteAt(long offset, ReadOnlySpan<float> values)
    {
        if (IsBFloat16)
        {
            fixed (float* from = values)
            {
                Narrow(from, (ushort*)_start + offset, values.Length);
            }
        }
    }

    /// <summary>Puts the one value of a row.</summary>
    public void Put(long row, float value)
    {
        if (IsBFloat16)
        {
            *(ushort*)Row(row) = Narrow(value);
        }
        else
        {
            *(float*)Row(row) = value;
        }
    }

    /// <summary>The one value of a row.</summary>
    public float Get(long row) => IsBFloat16 ? Widen(*(ushort*)Row(row)) : *(float*)Row(row);

    /// <summary>Puts a row back that <see cref="Read"/> gave and that was changed.</summary>
    public void Write(long row, ReadOnlySpan<float> values)
    {
        if (IsBFloat16)
        {
            fixed (float* from = values)
            {
                Narrow(from, (ushort*)Row(row), values.Length);
            }
        }
    }

    /// <summary>Adds a row times a factor.</summary>
    public void AddTo(Span<float> sum, long row, float factor)
    {
        if (!IsBFloat16)
        {
            TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(Row(row), sum.Length), factor, sum, sum);
            return;
        }

        var values = (ushort*)Row(row);
        var i = 0;
        if (Vector256.IsHardwareAccelerated)
        {
            var factors = Vector256.Create(factor);
            for (ref var at = ref MemoryMarshal.GetReference(sum); i <= sum.Length - 8; i += 8)
            {
                var wide = Vector256.ShiftLeft(Vector256.WidenLower(Vector128.Load(values + i).ToVector256Unsafe()), 16).AsSingle();
                Vector256.FusedMultiplyAdd(wide, factors, Vector256.LoadUnsafe(ref at, (nuint)i)).StoreUnsafe(ref at, (nuint)i);
            }
        }

        for (; i < sum.Length; i++)
        {
            sum[i] += Widen(values[i]) * factor;
        }
    }

    /// <summary>bfloat16 to float32: the upper half of the bits.</summary>
    public static void Widen(ushort* from, float* to, int count)
    {
        var i = 0;
        if (Vector256.IsHardwareAccelerated)
        {
            for (; i <= count - 16; i += 16)
            {
                var (lower, upper) = Vector256.Widen(Vector256.Load(from + i));
                Vector256.ShiftLeft(lower, 16).AsSingle().Store(to + i);
                Vector256.ShiftLeft(upper, 16).AsSingle().Store(to + i + 8);
            }
        }

        for (; i < count; i++)
        {
            to[i] = Widen(from[i]);
        }
    }

    /// <summary>float32 to bfloat16, to the nearest, ties to even; what is no number stays none.</summary>
    public static void Narrow(float* from, ushort* to, int count)
    {
        var i = 0;
        if (Vector256.IsHardwareAccelerated)
        {
            for (; i <= count - 16; i += 16)
            {
                Vector256.Narrow(Rounded(Vector256.Load(from + i)), Rounded(Vector256.Load(from + i + 8))).Store(to + i);
            }
        }

        for (; i < count; i++)
        {
            to[i] = Narrow(from[i]);
        }
    }

    /// <summary>Values as they are when they have been stored as bfloat16.</summary>
    public static void Round(Span<float> values)
    {
        var i = 0;
        if (Vector256.IsHardwareAccelerated)
        {
            for (ref var at = ref MemoryMarshal.GetReference(values); i <= values.Length - 8; i += 8)
            {
                Vector256.ShiftLeft(Rounded(Vector256.LoadUnsafe(ref at, (nuint)i)), 16).AsSingle().StoreUnsafe(ref at, (nuint)i);
            }
        }

        for (; i < values.Length; i++)
        {
            values[i] = Widen(Narrow(values[i]));
        }
    }

    /// <summary>A float32 rounded to the nearest bfloat16, ties to even.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ushort Narrow(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)0x7FC0 : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    /// <summary>A bfloat16 as float32.</summary>
    public static float Widen(ushort value) => BitConverter.UInt32BitsToSingle((uint)value << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> Rounded(Vector256<float> values)
    {
        var bits = values.AsUInt32();
        var odd = Vector256.ShiftRightLogical(bits, 16) & Vector256<uint>.One;
        var rounded = Vector256.ShiftRightLogical(bits + Vector256.Create(0x7FFFu) + odd, 16);
        return Vector256.ConditionalSelect(Vector256.Equals(values, values).AsUInt32(), rounded, Vector256.Create(0x7FC0u));
    }
}
