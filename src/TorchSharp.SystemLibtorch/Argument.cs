using System.Runtime.InteropServices;
using System.Text;

using static TorchSharp.torch;

namespace TorchSharp;

/// <summary>What a value is on its way into libtorch's dispatcher or out of it. Mirrors <c>Kind</c> in shim.cpp.</summary>
internal enum ValueKind
{
    None,
    Tensor,
    Int,
    Double,
    Bool,
    IntList,
    DoubleList,
    BoolList,
    TensorList,
    OptionalTensorList,
    String,
    Device,
    Generator,
}

/// <summary>A tagged value as the shim reads and writes it. Mirrors <c>Value</c> in shim.cpp.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct NativeValue
{
    public ValueKind Kind;
    public int Length;
    public long Bits;
}

/// <summary>An argument of an operator. Every type that a schema knows converts to it, so that a call reads like the schema.</summary>
internal readonly struct Argument
{
    private readonly object? _reference;
    private readonly long _bits;
    private readonly ValueKind _kind;

    private Argument(ValueKind kind, long bits = 0, object? reference = null)
    {
        _kind = kind;
        _bits = bits;
        _reference = reference;
    }

    /// <summary>The tensor that this argument is.</summary>
    public Tensor Tensor => (Tensor)_reference!;

    /// <summary>How many 8-byte words the elements of a list or string take.</summary>
    public int Words => _reference switch
    {
        long[] list => list.Length,
        double[] list => list.Length,
        Tensor?[] list => list.Length,
        string text => (Encoding.UTF8.GetByteCount(text) + 7) / 8,
        _ => 0,
    };

    public static implicit operator Argument(Tensor? value) => value is null ? default : new(ValueKind.Tensor, 0, value);

    public static implicit operator Argument(long value) => new(ValueKind.Int, value);

    public static implicit operator Argument(long? value) => value is long number ? new(ValueKind.Int, number) : default;

    public static implicit operator Argument(double value) => new(ValueKind.Double, BitConverter.DoubleToInt64Bits(value));

    public static implicit operator Argument(double? value) => value is double number ? number : default(Argument);

    public static implicit operator Argument(bool value) => new(ValueKind.Bool, value ? 1 : 0);

    public static implicit operator Argument(Scalar? value) => value is null ? default : new(value.Kind, value.Bits);

    public static implicit operator Argument(ScalarType value) => new(ValueKind.Int, (long)value);

    public static implicit operator Argument(ScalarType? value) => value is ScalarType type ? new(ValueKind.Int, (long)type) : default;

    public static implicit operator Argument(long[]? value) => value is null ? default : new(ValueKind.IntList, 0, value);

    public static implicit operator Argument(double[]? value) => value is null ? default : new(ValueKind.DoubleList, 0, value);

    public static implicit operator Argument(Tensor[] value) => new(ValueKind.TensorList, 0, value);

    public static implicit operator Argument(string? value) => value is null ? default : new(ValueKind.String, 0, value);

    public static implicit operator Argument(Device? value) =>
        value is null ? default : new(ValueKind.Device, ((long)value.type << 32) | (uint)value.index);

    public static implicit operator Argument(Generator? value) => value is null ? default : new(ValueKind.Generator, value.Handle, value);

    /// <summary>A list in which null stands for "the whole dimension", as indexing by tensors takes it.</summary>
    public static Argument OptionalList(Tensor?[] tensors) => new(ValueKind.OptionalTensorList, 0, tensors);

    /// <summary>Writes the value, and the elements it points at into <paramref name="words"/>, which must not move until the call is over.</summary>
    public unsafe NativeValue Write(long* words)
    {
        var value = new NativeValue { Kind = _kind, Bits = _bits };
        switch (_reference)
        {
            case null:
                return value;
            case Tensor tensor:
                value.Bits = tensor.Handle;
                return value;
            case long[] list:
                list.CopyTo(new Span<long>(words, list.Length));
                value.Length = list.Length;
                break;
            case double[] list:
                list.CopyTo(new Span<double>(words, list.Length));
                value.Length = list.Length;
                break;
            case Tensor?[] list:
                for (var i = 0; i < list.Length; i++)
                {
                    words[i] = list[i]?.Handle ?? 0;
                }

                value.Length = list.Length;
                break;
            case string text:
                value.Length = Encoding.UTF8.GetBytes(text, new Span<byte>(words, Words * sizeof(long)));
                break;
            default:
                return value;
        }

        value.Bits = (long)words;
        return value;
    }
}
