using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Peft.Engine;

/// <summary>
/// What libtorch and the libraries under it read once, when they are loaded: set before that, for every engine, in this one place.
/// What the user set stays, whether before the process started or from within it.
/// </summary>
public static class EngineSettings
{
    /// <summary>Read by native code. A value given from within the process (<c>$env:NAME = …</c>) is known to .NET alone until it is handed on.</summary>
    private static readonly string[] s_handedOn =
    [
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "MKL_VERBOSE",
        "OMP_PROC_BIND", "GOMP_CPU_AFFINITY",
    ];

    private static readonly Lock s_gate = new();
    private static bool s_isApplied;

    /// <summary>
    /// Applies the settings; the first call counts. It happens by itself before anything else of this library runs; a program that computes
    /// with TorchSharp before it touches Peft calls this first.
    /// </summary>
    public static void Apply()
    {
        lock (s_gate)
        {
            if (s_isApplied)
            {
                return;
            }

            s_isApplied = true;
            if (!OperatingSystem.IsLinux())
            {
                return;
            }

            try
            {
                ApplyOnLinux();
            }
            catch (Exception error) when (error is DllNotFoundException or EntryPointNotFoundException)
            {
                // Another C library than glibc, where nothing of this holds.
            }
        }
    }

    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "libtorch reads its settings when it is loaded, which any first use of the library may bring about.")]
    internal static void ApplyFirst() => Apply();

    [System.Runtime.Versioning.SupportedOSPlatform("linux")]
    private static void ApplyOnLinux()
    {
        foreach (var name in s_handedOn)
        {
            if (Environment.GetEnvironmentVariable(name) is { Length: > 0 } value)
            {
                LinuxProcess.SetVariable(name, value);
            }
        }

        SetUnlessGiven("OMP_NUM_THREADS", FormattableString.Invariant($"{ComputeThreads.Default}"));
        if (OpenBlasKernels() is { } kernels)
        {
            SetUnlessGiven("OPENBLAS_CORETYPE", kernels);
        }

        SharedCores.SetWaiting(SetUnlessGiven);
        MklKernels.Apply();
    }

    /// <summary>
    /// OpenBLAS takes the oldest kernels on processors it doesn't know, and it knows none that came after it (0.3.21 of Debian 12: five times
    /// slower on an Intel Xeon of 2023). These two are what it takes itself on those it knows.
    /// </summary>
    private static string? OpenBlasKernels() =>
        Avx512F.IsSupported && Avx512BW.IsSupported && Avx512DQ.IsSupported && Avx512F.VL.IsSupported ? "SkylakeX"
        : Avx2.IsSupported && Fma.IsSupported ? "Haswell"
        : null;

    [System.Runtime.Versioning.SupportedOSPlatform("linux")]
    private static void SetUnlessGiven(string name, string value)
    {
        if (string.IsNullOrEmpty(LinuxProcess.Variable(name)))
        {
            LinuxProcess.SetVariable(name, value);
        }
    }
}
