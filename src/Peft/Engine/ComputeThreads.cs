using System.Globalization;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>How many threads the engine computes with. A number for the whole process: libtorch has one.</summary>
public static class ComputeThreads
{
    private static readonly Lock s_gate = new();
    private static int? s_given;
    private static int? s_kept;
    private static int? s_default;

    /// <summary>
    /// What is used where nobody says otherwise: <c>OMP_NUM_THREADS</c>, else the physical cores this process may use (the second thread of
    /// a core has no arithmetic of its own to offer).
    /// </summary>
    public static int Default => FromVariable() ?? Math.Min(PhysicalCores() ?? int.MaxValue, Environment.ProcessorCount);

    /// <summary>The number in use.</summary>
    public static int Count
    {
        get
        {
            lock (s_gate)
            {
                return s_given ?? s_kept ?? (s_default ??= Default);
            }
        }
    }

    /// <summary>Whether the user chose the number, by <see cref="Choose"/> or by <c>OMP_NUM_THREADS</c>.</summary>
    public static bool IsGiven
    {
        get
        {
            lock (s_gate)
            {
                return s_given is not null || FromVariable() is not null;
            }
        }
    }

    /// <summary>Chooses the number for every operation that begins from now on.</summary>
    /// <param name="count">At least one, at most the processors there are.</param>
    /// <exception cref="PeftException"><c>ThreadCountInvalid</c>.</exception>
    public static void Choose(int count)
    {
        if (count < 1 || count > Environment.ProcessorCount)
        {
            throw new PeftException(
                "ThreadCountInvalid", $"The engine can't compute with {count} threads: this process may use {Environment.ProcessorCount} processors.")
            {
                Target = count,
                RecommendedAction = $"Give a number from 1 to {Environment.ProcessorCount}.",
            };
        }

        lock (s_gate)
        {
            s_given = count;
        }
    }

    /// <summary>Computes with a number, on the calling thread and in what begins from now on, until the result is disposed; what the user gives meanwhile counts.</summary>
    internal static IDisposable Keep(int count)
    {
        lock (s_gate)
        {
            var kept = new Kept(s_kept);
            s_kept = count;
            ApplyHere();
            return kept;
        }
    }

    /// <summary>Takes back what <see cref="Choose"/> gave, for tests.</summary>
    internal static void Forget()
    {
        lock (s_gate)
        {
            s_given = null;
        }
    }

    /// <summary>Makes the calling thread, and those that come to computing after it, use the number. Cheap where nothing changed.</summary>
    internal static void ApplyHere()
    {
        var count = Count;
        if (get_num_threads() != count)
        {
            set_num_threads(count);
        }
    }

    private static int? FromVariable() =>
        int.TryParse(Environment.GetEnvironmentVariable("OMP_NUM_THREADS")?.Split(',')[0], NumberStyles.None, CultureInfo.InvariantCulture, out var count) && count > 0
            ? count
            : null;

    /// <summary>Distinct cores among the processors that the system lists; null where it doesn't say.</summary>
    private static int? PhysicalCores()
    {
        const string Folder = "/sys/devices/system/cpu";
        if (!OperatingSystem.IsLinux() || !Directory.Exists(Folder))
        {
            return null;
        }

        try
        {
            var cores = Directory.EnumerateDirectories(Folder, "cpu*")
                .Select(static processor => Path.Combine(processor, "topology"))
                .Where(Directory.Exists)
                .Select(static topology => (
                    File.ReadAllText(Path.Combine(topology, "physical_package_id")).Trim(), File.ReadAllText(Path.Combine(topology, "core_id")).Trim()))
                .Distinct()
                .Count();
            return cores == 0 ? null : cores;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private sealed class Kept(int? before) : IDisposable
    {
        public void Dispose()
        {
            lock (s_gate)
            {
                s_kept = before;
                ApplyHere();
            }
        }
    }
}
