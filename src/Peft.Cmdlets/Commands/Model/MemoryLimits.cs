using System.Collections;
using System.Globalization;
using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Models.Placement;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>accelerate's <c>max_memory</c>: bytes by device.</summary>
internal static class MemoryLimits
{
    /// <summary>The limits in the order in which devices are filled: GPUs by number, then the processor.</summary>
    /// <param name="limits">Amounts by <c>cpu</c>, <c>disk</c>, or the number of a GPU.</param>
    /// <param name="warn">Hears of GPUs that aren't there: a limit of theirs limits nothing.</param>
    /// <exception cref="PeftException"><c>MaxMemoryInvalid</c>.</exception>
    public static IReadOnlyList<(string Device, long Bytes)> Parse(IDictionary limits, Action<string> warn)
    {
        var known = DeviceInformation.List().Select(static device => device.Name).ToHashSet(StringComparer.OrdinalIgnoreCase);
        var parsed = limits.Cast<DictionaryEntry>().Select(static entry => (Device: DeviceMaps.NameOf(entry.Key), Bytes: Bytes(entry.Value))).ToArray();
        foreach (var (device, _) in parsed.Where(entry => entry.Device != DeviceMapRequest.Disk && !known.Contains(entry.Device)))
        {
            if (!device.StartsWith("cuda", StringComparison.OrdinalIgnoreCase))
            {
                throw new PeftException("MaxMemoryInvalid", $"'{device}' is no device that memory could be limited of.")
                {
                    Target = device,
                    RecommendedAction = "Name devices as transformers does: the number of a GPU, or cpu, such as @{ 0 = '10GiB'; cpu = '8GB' }.",
                };
            }

            warn($"There is no device '{device}' here: its limit is passed over.");
        }

        return [.. parsed.Where(entry => known.Contains(entry.Device)).OrderBy(static entry => entry.Device == DeviceMapRequest.Cpu).ThenBy(static entry => entry.Device, StringComparer.Ordinal)];
    }

    private static long Bytes(object? amount)
    {
        try
        {
            return checked((long)(amount?.Unwrap() switch
            {
                string text => Convert.ToDouble(LanguagePrimitives.ConvertTo<long>(text.Replace("i", "", StringComparison.OrdinalIgnoreCase).Trim()), CultureInfo.InvariantCulture),
                var number => Convert.ToDouble(number, CultureInfo.InvariantCulture),
            }));
        }
        catch (Exception error) when (error is PSInvalidCastException or FormatException or InvalidCastException or OverflowException)
        {
            throw new PeftException("MaxMemoryInvalid", $"'{amount}' is no amount of memory.", error) { Target = amount };
        }
    }
}
