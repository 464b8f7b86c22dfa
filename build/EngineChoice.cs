namespace Peft.Build;

/// <summary>What the person who builds asks for; null leaves it to the machine.</summary>
/// <param name="Engine">NuGet or SystemLibtorch.</param>
/// <param name="Backend">What NuGet's engine computes on: cpu, cuda-windows or cuda-linux.</param>
/// <param name="Libtorch">A folder with a libtorch, which makes the engine SystemLibtorch.</param>
internal sealed record EngineRequest(string? Engine, string? Backend, string? Libtorch);

/// <summary>Which engine this machine gets.</summary>
internal static class EngineChoice
{
    public const string NuGet = "NuGet";
    public const string SystemLibtorch = "SystemLibtorch";
    public const string Cpu = "cpu";
    public const string CudaWindows = "cuda-windows";

    /// <summary>Decides, and says what it tries.</summary>
    /// <param name="asked">What was asked for.</param>
    /// <param name="isWindowsWithNvidia">Whether this is Windows with NVIDIA's driver, which gets CUDA unasked where the feed has it.</param>
    /// <param name="runs">Whether a sum computed with NuGet's TorchSharp on a backend is right.</param>
    /// <param name="say">Takes sentences for the person who builds.</param>
    public static (string Engine, string Backend) Decide(EngineRequest asked, bool isWindowsWithNvidia, Func<string, bool> runs, Action<string> say)
    {
        if ((asked.Engine ?? (asked.Libtorch is null ? NuGet : SystemLibtorch)) == SystemLibtorch)
        {
            return (SystemLibtorch, Cpu);
        }

        if (asked.Backend is null && isWindowsWithNvidia)
        {
            say("NVIDIA's driver is here, so the engine is to compute on CUDA: TorchSharp-cuda-windows is about 3 GB to download, once, and 6 GB on disk. TorchBackend=cpu leaves it out.");
            if (runs(CudaWindows))
            {
                return (NuGet, CudaWindows);
            }

            say("TorchSharp-cuda-windows can't be had or doesn't run here, so Peft computes on the CPU.");
        }

        var backend = asked.Backend ?? Cpu;
        return asked.Engine == NuGet || runs(backend) ? (NuGet, backend) : (SystemLibtorch, Cpu);
    }
}
