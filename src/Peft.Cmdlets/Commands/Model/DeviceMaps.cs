using System.Collections;
using System.Globalization;
using Peft.Cmdlets.Arguments;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>transformers' <c>device_map</c>, of which a model on one device is supported.</summary>
internal static class DeviceMaps
{
    /// <summary>The device that the whole model goes to.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>DeviceMapNotSupported</c>: modules on several devices, or on the disk.</exception>
    public static string Single(object map)
    {
        var devices = map.Unwrap() is IDictionary table ? table.Values.Cast<object>().Select(NameOf).Distinct(StringComparer.Ordinal).ToArray() : [NameOf(map)];
        return devices is [var device] && device != "disk" ? device : throw new NotSupportedByPeftException(
            "DeviceMapNotSupported", $"A device map that puts modules on {string.Join(" and ", devices)} is not supported: a model lies on one device.")
        {
            Target = map,
            RecommendedAction = "Give 'auto', a device, or a table with one device; quantised to four bits (-LoadIn4Bit) a model takes a quarter.",
        };
    }

    private static string NameOf(object device) => device.Unwrap() switch
    {
        "auto" or "balanced" or "balanced_low_0" or "sequential" => "auto",
        int number => string.Create(CultureInfo.InvariantCulture, $"cuda:{number}"),
        var other => $"{other}",
    };
}
