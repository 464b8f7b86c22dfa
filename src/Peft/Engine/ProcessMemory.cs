using System.Diagnostics;
using System.Globalization;

namespace Peft.Engine;

/// <summary>What memory this process occupies. On a device other than the processor its own memory is not counted.</summary>
public static class ProcessMemory
{
    private const string Sizes = "/proc/self/statm", Status = "/proc/self/status", Peak = "VmHWM:";

    /// <summary>Bytes that are resident now.</summary>
    public static long ResidentBytes
    {
        get
        {
            if (!OperatingSystem.IsLinux())
            {
                return Environment.WorkingSet;
            }

            // The second figure is the resident pages; everything else that .NET offers reads several files for it.
            var sizes = File.ReadAllText(Sizes).AsSpan();
            sizes = sizes[(sizes.IndexOf(' ') + 1)..];
            return long.Parse(sizes[..sizes.IndexOf(' ')], CultureInfo.InvariantCulture) * Environment.SystemPageSize;
        }
    }

    /// <summary>The most bytes that were resident since the process began.</summary>
    public static long PeakBytes
    {
        get
        {
            if (OperatingSystem.IsLinux() && File.ReadLines(Status).FirstOrDefault(static line => line.StartsWith(Peak, StringComparison.Ordinal)) is { } line)
            {
                return long.Parse(line[Peak.Length..].Replace("kB", "", StringComparison.Ordinal).Trim(), CultureInfo.InvariantCulture) * 1024;
            }

            using var process = Process.GetCurrentProcess();
            return process.PeakWorkingSet64;
        }
    }

    /// <summary>Bytes that could be taken without pushing others to the disk: what the system, or the container that this runs in, has free.</summary>
    public static long FreeBytes
    {
        get
        {
            var memory = GC.GetGCMemoryInfo();
            var free = memory.TotalAvailableMemoryBytes - Math.Min(memory.MemoryLoadBytes, memory.TotalAvailableMemoryBytes);
            const string System = "/proc/meminfo", Available = "MemAvailable:";
            return OperatingSystem.IsLinux() && File.Exists(System) && File.ReadLines(System).FirstOrDefault(static line => line.StartsWith(Available, StringComparison.Ordinal)) is { } line
                ? Math.Min(memory.TotalAvailableMemoryBytes, long.Parse(line[Available.Length..].Replace("kB", "", StringComparison.Ordinal).Trim(), CultureInfo.InvariantCulture) * 1024)
                : free;
        }
    }
}
