using static TorchSharp.torch;

namespace TorchSharp;

/// <summary>A number of any element type. It owns nothing native, so Dispose does nothing.</summary>
public sealed class Scalar : IDisposable
{
    private Scalar(ScalarType type, ValueKind kind, long bits)
    {
        Type = type;
        Kind = kind;
        Bits = bits;
    }

    /// <summary>Int64, Float64 or Bool: like libtorch, a scalar keeps no narrower type.</summary>
    public ScalarType Type { get; }

    internal ValueKind Kind { get; }

    internal long Bits { get; }

    internal double Real => Kind == ValueKind.Double ? BitConverter.Int64BitsToDouble(Bits) : Bits;

    internal long Integer => Kind == ValueKind.Double ? (long)Real : Bits;

    public void Dispose()
    {
    }

    internal static Scalar Of(NativeValue value) => value.Kind switch
    {
        ValueKind.Double => BitConverter.Int64BitsToDouble(value.Bits),
        ValueKind.Bool => value.Bits != 0,
        _ => value.Bits,
    };

    public static implicit operator Scalar(byte value) => (long)value;

    public static implicit operator Scalar(sbyte value) => (long)value;

    public static implicit operator Scalar(short value) => (long)value;

    public static implicit operator Scalar(int value) => (long)value;

    public static implicit operator Scalar(long value) => new(ScalarType.Int64, ValueKind.Int, value);

    public static implicit operator Scalar(Half value) => (double)value;

    public static implicit operator Scalar(BFloat16 value) => (double)(float)value;

    public static implicit operator Scalar(float value) => (double)value;

    public static implicit operator Scalar(double value) => new(ScalarType.Float64, ValueKind.Double, BitConverter.DoubleToInt64Bits(value));

    public static implicit operator Scalar(bool value) => new(ScalarType.Bool, ValueKind.Bool, value ? 1 : 0);
}

/// <summary>Conversions between numbers and scalars.</summary>
public static class ScalarExtensionMethods
{
    public static Scalar ToScalar(this byte value) => value;

    public static Scalar ToScalar(this sbyte value) => value;

    public static Scalar ToScalar(this short value) => value;

    public static Scalar ToScalar(this int value) => value;

    public static Scalar ToScalar(this long value) => value;

    public static Scalar ToScalar(this float value) => value;

    public static Scalar ToScalar(this double value) => value;

    public static Scalar ToScalar(this bool value) => value;

    public static Scalar ToScalar(this Half value) => value;

    public static Scalar ToScalar(this BFloat16 value) => value;

    public static float ToSingle(this Scalar value) => (float)value.Real;

    public static double ToDouble(this Scalar value) => value.Real;

    public static Half ToHalf(this Scalar value) => (Half)value.Real;

    public static BFloat16 ToBFloat16(this Scalar value) => new((float)value.Real);

    public static sbyte ToSByte(this Scalar value) => (sbyte)value.Integer;

    public static byte ToByte(this Scalar value) => (byte)value.Integer;

    public static short ToInt16(this Scalar value) => (short)value.Integer;

    public static int ToInt32(this Scalar value) => (int)value.Integer;

    public static long ToInt64(this Scalar value) => value.Integer;

    public static bool ToBoolean(this Scalar value) => value.Real != 0;
}
