using Peft.Cmdlets.Commands.Model;
using TorchSharp;

namespace Peft.Cmdlets.Session;

/// <summary>The engine's types and devices by the names that users know from Python; no cmdlet shows the engine's own types.</summary>
internal static class EngineNames
{
    /// <summary>A type by name; null for <c>auto</c>.</summary>
    public static torch.ScalarType? DataType(string name) => name.ToUpperInvariant() switch
    {
        "FLOAT32" => torch.ScalarType.Float32,
        "BFLOAT16" => torch.ScalarType.BFloat16,
        "FLOAT16" => torch.ScalarType.Float16,
        _ => null,
    };

    /// <summary>A device by name; <c>auto</c> takes the first GPU where there is one.</summary>
    /// <exception cref="PeftException"><c>DeviceNotFound</c>.</exception>
    public static torch.Device Device(string name)
    {
        var device = DeviceInformation.List().FirstOrDefault(device => name.ToUpperInvariant() switch
        {
            "AUTO" => device.IsDefault,
            "CUDA" => device.Kind == "CUDA",
            _ => device.Name.Equals(name, StringComparison.OrdinalIgnoreCase),
        });
        return device is not null ? torch.device(device.Name) : throw new PeftException("DeviceNotFound", $"There is no device '{name}' here.")
        {
            Target = name,
            RecommendedAction = "Get-PeftDevice lists the devices there are.",
        };
    }
}
