using System.Collections.Immutable;

namespace Peft.Quantization;

/// <summary>A four-bit number type: sixteen values between -1 and 1, of which each weight takes the nearest after its block was scaled by its largest magnitude.</summary>
public sealed class FourBitType
{
    private readonly float[] _values;
    private readonly float[] _bounds;
    private readonly byte[] _order;

    private FourBitType(string name, params float[] values)
    {
        Name = name;
        _values = values;
        _order = [.. Enumerable.Range(0, values.Length).OrderBy(code => values[code]).Select(static code => (byte)code)];
        _bounds = new float[values.Length - 1];
        for (var i = 0; i < _bounds.Length; i++)
        {
            _bounds[i] = (values[_order[i]] + values[_order[i + 1]]) / 2;
        }
    }

    /// <summary>NormalFloat: quantiles of a normal distribution, with an exact zero (Dettmers et al. 2023, appendix E).</summary>
    public static FourBitType NF4 { get; } = new(
        "nf4", -1f, -0.6961928f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f, -0.091050036f, 0f, 0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1f);

    /// <summary>A floating-point number of a sign, two bits of exponent and one of fraction, by its bits; there are two zeros.</summary>
    public static FourBitType FP4 { get; } = new(
        "fp4", 0f, 0.0052083333f, 0.6666667f, 1f, 0.33333334f, 0.5f, 0.16666667f, 0.25f, -0f, -0.0052083333f, -0.6666667f, -1f, -0.33333334f, -0.5f, -0.16666667f, -0.25f);

    /// <summary>Every type.</summary>
    public static ImmutableArray<FourBitType> All { get; } = [NF4, FP4];

    /// <summary>Its name in a quantisation configuration.</summary>
    public string Name { get; }

    /// <summary>The value of each code.</summary>
    public ReadOnlySpan<float> Values => _values;

    /// <summary>The midpoints between neighbouring values, ascending; a value on one takes the lower code.</summary>
    internal ReadOnlySpan<float> Bounds => _bounds;

    /// <summary>The code of each value in ascending order.</summary>
    internal ReadOnlySpan<byte> Order => _order;

    /// <summary>The type of this name.</summary>
    /// <exception cref="PeftException"><c>QuantizationNotSupported</c>.</exception>
    public static FourBitType Named(string name) => All.FirstOrDefault(type => type.Name == name)
        ?? throw new NotSupportedByPeftException("QuantizationNotSupported", $"'{name}' is no four-bit type; known are {string.Join(" and ", All.Select(static type => type.Name))}.");

    /// <inheritdoc/>
    public override string ToString() => Name;
}
