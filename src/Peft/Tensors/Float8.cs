namespace Peft.Tensors;

/// <summary>The two 8-bit floating-point formats of safetensors, which TorchSharp has no type for: they are read as float32.</summary>
public static class Float8
{
    private static readonly float[] s_fromE4M3 = Table(DecodeE4M3);
    private static readonly float[] s_fromE5M2 = Table(DecodeE5M2);

    /// <summary>The 256 values of E4M3: bias 7, no infinities, 0x7F and 0xFF are NaN (torch's <c>float8_e4m3fn</c>).</summary>
    public static ReadOnlySpan<float> E4M3 => s_fromE4M3;

    /// <summary>The 256 values of E5M2, which is the upper byte of a half (torch's <c>float8_e5m2</c>).</summary>
    public static ReadOnlySpan<float> E5M2 => s_fromE5M2;

    /// <summary>Decodes bytes of one of the two formats.</summary>
    /// <param name="type">The format.</param>
    /// <param name="bytes">The stored bytes.</param>
    /// <param name="values">As many values.</param>
    internal static void Decode(ElementType type, ReadOnlySpan<byte> bytes, Span<float> values)
    {
        var table = type.Name == "F8_E4M3" ? E4M3 : E5M2;
        for (var i = 0; i < bytes.Length; i++)
        {
            values[i] = table[bytes[i]];
        }
    }

    private static float DecodeE4M3(byte bits)
    {
        var exponent = (bits >> 3) & 0xF;
        var mantissa = bits & 7;
        var magnitude = exponent == 0 ? MathF.ScaleB(mantissa, -9)
            : exponent == 15 && mantissa == 7 ? float.NaN
            : MathF.ScaleB(8 + mantissa, exponent - 10);
        return (bits & 0x80) == 0 ? magnitude : -magnitude;
    }

    private static float DecodeE5M2(byte bits) => (float)BitConverter.UInt16BitsToHalf((ushort)(bits << 8));

    private static float[] Table(Func<byte, float> decode)
    {
        var table = new float[256];
        for (var i = 0; i < table.Length; i++)
        {
            table[i] = decode((byte)i);
        }

        return table;
    }
}
