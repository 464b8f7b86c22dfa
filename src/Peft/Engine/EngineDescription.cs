using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;
using Peft.Engine.Cuda;
using TorchSharp;

namespace Peft.Engine;

/// <summary>What computes here: a figure of speed says nothing without it.</summary>
/// <param name="Processor">The processor's name as the system gives it.</param>
/// <param name="Engine">The engine and its version.</param>
/// <param name="Kernels">Where matrix products in float32 come from, and for which instructions.</param>
/// <param name="Threads">Threads in use.</param>
public sealed record EngineDescription(string Processor, string Engine, string Kernels, int Threads)
{
    /// <summary>Intel's library, which the peer's builds for x64 have as well.</summary>
    internal const string Mkl = "MKL";

    private const string OpenBlas = "OpenBLAS";

    /// <summary>Describes this process. Loads libtorch where that hasn't happened.</summary>
    public static EngineDescription Current
    {
        get
        {
            EngineSettings.Apply();
            return new(ProcessorName(), EngineName(), KernelNames(), ComputeThreads.Count);
        }
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Processor}, {Threads} threads; {Engine}; {Kernels}{(CudaKernels.Failure is { } why ? $"; on the GPU operators alone: {why}" : "")}";

    /// <summary>Whether the engine is <c>src/TorchSharp.SystemLibtorch</c>.</summary>
    internal static bool IsSystemLibtorch { get; } =
        typeof(torch).Assembly.GetCustomAttribute<AssemblyDescriptionAttribute>()?.Description.Contains("package manager", StringComparison.Ordinal) == true;

    /// <summary>The library that decomposes matrices, where it is known: the signs of singular vectors are its choice. <c>MKL</c>, <c>OpenBLAS</c>, or null.</summary>
    internal static string? MatrixLibrary => KernelNames() is var kernels && kernels.StartsWith(OpenBlas, StringComparison.Ordinal) ? OpenBlas : kernels.StartsWith(Mkl, StringComparison.Ordinal) ? Mkl : null;

    private static string EngineName() => IsSystemLibtorch
        ? $"SystemLibtorch, libtorch {torch.__version__}"
        : $"NuGet's TorchSharp {typeof(torch).Assembly.GetName().Version?.ToString(3)}, libtorch {torch.__version__}";

    private static string ProcessorName()
    {
        const string Information = "/proc/cpuinfo";
        if (File.Exists(Information))
        {
            foreach (var line in File.ReadLines(Information))
            {
                if (line.StartsWith("model name", StringComparison.Ordinal))
                {
                    return line[(line.IndexOf(':', StringComparison.Ordinal) + 1)..].Trim();
                }
            }
        }

        return Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") ?? RuntimeInformation.ProcessArchitecture.ToString();
    }

    private static string KernelNames()
    {
        // The first call of the engine loads libtorch, which a look at the loaded libraries needs.
        _ = torch.get_num_threads();
        if (!OperatingSystem.IsLinux())
        {
            return "libtorch's kernels";
        }

        return LinuxProcess.LoadedFile("libopenblas") is { } openBlas && LinuxProcess.LoadedFunction(openBlas, "openblas_get_corename") is var name and not 0
            ? $"{OpenBlas} for {OpenBlasCore(name)}"
            : LinuxProcess.LoadedFile("libtorch_cpu") is { } libtorch && LinuxProcess.LoadedFunction(libtorch, "mkl_serv_intel_cpu_true") != 0
                ? MklKernels.IsToldByInstructions ? $"{Mkl}, told to go by the processor's instructions" : Mkl
                : "libtorch's kernels";
    }

    [SupportedOSPlatform("linux")]
    private static unsafe string? OpenBlasCore(nint function) => Marshal.PtrToStringUTF8(((delegate* unmanaged<nint>)function)());
}
