using System.Collections;
using System.Globalization;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Session;
using Peft.Engine;
using Peft.Models.Placement;
using static TorchSharp.torch;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>transformers' <c>device_map</c> and <c>max_memory</c> as they are given at the prompt.</summary>
internal static class DeviceMaps
{
    /// <summary>What is asked for; null where a whole model goes to the default device, whatever it takes.</summary>
    /// <param name="map"><c>device_map</c>, or null.</param>
    /// <param name="limits"><c>max_memory</c>, or null.</param>
    /// <param name="device">The device that the caller named beside limits, or null.</param>
    /// <exception cref="PeftException"><c>DeviceNotFound</c>, <c>DeviceMapInvalid</c>.</exception>
    public static DeviceMapRequest? Parse(object? map, IReadOnlyList<(string Device, long Bytes)>? limits, Device? device)
    {
        if (map?.Unwrap() is IDictionary table)
        {
            return new DeviceMapRequest { Table = [.. table.Cast<DictionaryEntry>().Select(static entry => ($"{entry.Key.Unwrap()}", Known(NameOf(entry.Value))))], MaxMemory = limits ?? [] };
        }

        if (map is not null && NameOf(map) is var name and not "auto")
        {
            return new DeviceMapRequest { Table = [("", Known(name))], MaxMemory = limits ?? [] };
        }

        if (limits is { Count: > 0 })
        {
            var used = device is null ? limits : [.. limits.Where(limit => limit.Device == DeviceMapRequest.Cpu ? device.type is TorchSharp.DeviceType.CPU or TorchSharp.DeviceType.CUDA : limit.Device == device.ToString())];
            return new DeviceMapRequest { MaxMemory = used.Count > 0 ? used : limits };
        }

        // A GPU's free memory isn't known before it is used.
        return EngineNames.Device("auto").type == TorchSharp.DeviceType.CPU ? new DeviceMapRequest { MaxMemory = [(DeviceMapRequest.Cpu, ProcessMemory.FreeBytes)] } : null;
    }

    /// <summary>The name of a device by what a tutorial calls it: a number is a GPU.</summary>
    public static string NameOf(object? device) => device?.Unwrap() switch
    {
        string text when text.ToUpperInvariant() is "AUTO" or "BALANCED" or "BALANCED_LOW_0" or "SEQUENTIAL" => "auto",
        string text when int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) => string.Create(CultureInfo.InvariantCulture, $"cuda:{number}"),
        string text => text.ToLowerInvariant() switch
        {
            "cuda" => "cuda:0",
            var other => other,
        },
        var number and (int or long) => string.Create(CultureInfo.InvariantCulture, $"cuda:{number}"),
        var other => $"{other}",
    };

    /// <summary>The plan as a person reads it.</summary>
    public static string Table(IReadOnlyList<ModulePlacement> rows)
    {
        const string Whole = "the whole model";
        var width = rows.Max(static row => Math.Max(Whole.Length, row.Module.Length));
        return string.Join(Environment.NewLine, rows.Select(row => FormattableString.Invariant($"{(row.Module.Length == 0 ? Whole : row.Module).PadRight(width)}  {row.Device,-6}  {row.Bytes / 1e6,12:N1} MB")));
    }

    private static string Known(string name) => name == DeviceMapRequest.Disk ? name : EngineNames.Device(name).ToString();
}
