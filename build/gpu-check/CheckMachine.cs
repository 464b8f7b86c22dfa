using System.Diagnostics;
using System.Globalization;
using TorchSharp;

namespace Peft.Build.Gpu;

/// <summary>Where the checks run: what was taken along, and the device.</summary>
/// <param name="Folder">Holds assets, golden and README.md.</param>
/// <param name="DeviceName">cuda, or cpu for a dry run.</param>
internal sealed record CheckMachine(string Folder, string DeviceName)
{
    public bool IsGpu => DeviceName != "cpu";

    public torch.Device Device { get; } = torch.device(DeviceName);

    public string At(params string[] parts) => Path.Combine([Folder, .. parts]);

    /// <summary>Memory of the GPU in use, in bytes, by whatever process; 0 on the CPU.</summary>
    public long UsedMemory()
    {
        if (!IsGpu)
        {
            return 0;
        }

        var start = new ProcessStartInfo("nvidia-smi", ["--query-gpu=memory.used", "--format=csv,noheader,nounits"]) { UseShellExecute = false, RedirectStandardOutput = true };
        using var process = Process.Start(start)!;
        return long.Parse(process.StandardOutput.ReadToEnd().Split('\n')[0], CultureInfo.InvariantCulture) << 20;
    }

    /// <summary>Fills the GPU but for about <paramref name="free"/> bytes; what comes back is to be disposed.</summary>
    public List<torch.Tensor> Fill(long free)
    {
        var filler = new List<torch.Tensor>();
        for (var size = 1L << 30; size >= 1 << 24;)
        {
            try
            {
                filler.Add(torch.empty([size], torch.ScalarType.Byte, Device).DetachFromDisposeScope());
            }
            catch (System.Runtime.InteropServices.ExternalException)
            {
                size >>= 1;
            }
        }

        for (var released = 0L; released < free && filler.Count > 0;)
        {
            released += filler[^1].numel();
            filler[^1].Dispose();
            filler.RemoveAt(filler.Count - 1);
        }

        return filler;
    }
}

/// <summary>A check that didn't hold.</summary>
internal sealed class CheckFailedException(string message) : Exception(message)
{
    public static void Unless(bool holds, string message)
    {
        if (!holds)
        {
            throw new CheckFailedException(message);
        }
    }
}
