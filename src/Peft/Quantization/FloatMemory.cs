using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Peft.Quantization;

/// <summary>Elements of a tensor in the processor's memory, read and written as float32 whatever their type.</summary>
internal readonly unsafe struct FloatMemory
{
    private readonly byte* _start;
    private readonly ScalarType _type;

    private FloatMemory(byte* start, ScalarType type)
    {
        _start = start;
        _type = type;
    }

    /// <summary>The elements of a tensor.</summary>
    /// <param name="tensor">float32, bfloat16 or float16, contiguous and on the CPU. It must outlive the result.</param>
    public static FloatMemory Of(Tensor tensor) => new(TensorMemory.Pointer(tensor), tensor.dtype);

    /// <summary>The tensor itself where <see cref="Of"/> can read it, otherwise one it can.</summary>
    public static Tensor Readable(Tensor tensor)
    {
        var plain = tensor.dtype is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16 ? tensor : tensor.to(ScalarType.Float32);
        return plain.cpu().contiguous();
    }

    /// <summary>Elements as float32: themselves, or widened into the scratch memory.</summary>
    public ReadOnlySpan<float> Read(long from, Span<float> scratch)
    {
        switch (_type)
        {
            case ScalarType.Float32:
                return new ReadOnlySpan<float>((float*)_start + from, scratch.Length);
            case ScalarType.BFloat16:
                fixed (float* to = scratch)
                {
                    CpuRows.Widen((ushort*)_start + from, to, scratch.Length);
                }

                return scratch;
            default:
                TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>((Half*)_start + from, scratch.Length), scratch);
                return scratch;
        }
    }

    /// <summary>Where values are put before <see cref="Write"/>: in the memory itself, or in the scratch memory.</summary>
    public Span<float> Target(long from, Span<float> scratch) => _type == ScalarType.Float32 ? new Span<float>((float*)_start + from, scratch.Length) : scratch;

    /// <summary>Puts values that <see cref="Target"/> gave room for; <paramref name="stored"/> is a type they are rounded to on the way.</summary>
    public void Write(long from, Span<float> values, ScalarType stored)
    {
        if (stored != _type)
        {
            Round(values, stored);
        }

        switch (_type)
        {
            case ScalarType.Float32:
                break;
            case ScalarType.BFloat16:
                fixed (float* given = values)
                {
                    CpuRows.Narrow(given, (ushort*)_start + from, values.Length);
                }

                break;
            default:
                TensorPrimitives.ConvertToHalf(values, new Span<Half>((Half*)_start + from, values.Length));
                break;
        }
    }

    private static void Round(Span<float> values, ScalarType type)
    {
        if (type == ScalarType.BFloat16)
        {
            for (var i = 0; i < values.Length; i++)
            {
                values[i] = CpuRows.Widen(CpuRows.Narrow(values[i]));
            }
        }
        else if (type == ScalarType.Float16)
        {
            for (var i = 0; i < values.Length; i++)
            {
                values[i] = (float)(Half)values[i];
            }
        }
    }
}
