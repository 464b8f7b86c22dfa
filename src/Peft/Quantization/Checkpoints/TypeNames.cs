using static TorchSharp.torch;

namespace Peft.Quantization.Checkpoints;

/// <summary>Floating-point types by the names that configurations have for them.</summary>
internal static class TypeNames
{
    private static readonly Dictionary<string, ScalarType> s_types = new(StringComparer.Ordinal)
    {
        ["float32"] = ScalarType.Float32,
        ["bfloat16"] = ScalarType.BFloat16,
        ["float16"] = ScalarType.Float16,
        ["float"] = ScalarType.Float32,
        ["half"] = ScalarType.Float16,
    };

    /// <summary>The type of a name, with <c>torch.</c> in front or without.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>QuantizationNotSupported</c>.</exception>
    public static ScalarType Parse(string name) => s_types.TryGetValue(name.Replace("torch.", "", StringComparison.Ordinal), out var type)
        ? type
        : throw new NotSupportedByPeftException("QuantizationNotSupported", $"Quantised weights are of the types {string.Join(", ", s_types.Keys)}, not of '{name}'.");

    /// <summary>The name of a type.</summary>
    public static string Of(ScalarType type) => s_types.First(known => known.Value == type).Key;
}
