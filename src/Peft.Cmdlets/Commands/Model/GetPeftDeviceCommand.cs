using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Pipeline;
using Peft.Engine;
using TorchSharp;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Get-PeftDevice: the processors that models can run on.</summary>
[Cmdlet(VerbsCommon.Get, "PeftDevice")]
[OutputType(typeof(DeviceInformation))]
public sealed class GetPeftDeviceCommand : PeftCmdlet
{
    /// <inheritdoc/>
    protected override void Process() => Run(static output =>
    {
        foreach (var device in DeviceInformation.List())
        {
            output.WriteObject(device);
        }
    });
}

/// <summary>A processor that a model can run on.</summary>
/// <param name="Name">What <c>Import-PeftModel -Device</c> takes: <c>cpu</c>, <c>cuda:0</c>.</param>
/// <param name="Kind"><c>CPU</c> or <c>CUDA</c>.</param>
/// <param name="IsDefault">Whether a model goes there when no device is named.</param>
/// <param name="Threads">Threads that the engine uses there; null for a GPU.</param>
/// <param name="MemoryBytes">Memory that this process may use there, in bytes; null for a GPU, for the engine doesn't tell.</param>
/// <param name="Engine">The engine and its version.</param>
public sealed record DeviceInformation(string Name, string Kind, bool IsDefault, int? Threads, long? MemoryBytes, string Engine)
{
    /// <summary>Lists what the engine finds, the default first.</summary>
    public static IReadOnlyList<DeviceInformation> List()
    {
        var engine = $"TorchSharp {typeof(torch).Assembly.GetName().Version?.ToString(3)}, libtorch {torch.__version__}";
        var devices = new List<DeviceInformation>();
        var cudaCount = torch.cuda.is_available() ? torch.cuda.device_count() : 0;
        for (var index = 0; index < cudaCount; index++)
        {
            devices.Add(new($"cuda:{index}", "CUDA", index == 0, Threads: null, MemoryBytes: null, engine));
        }

        devices.Add(new("cpu", "CPU", cudaCount == 0, ComputeThreads.Count, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes, engine));
        return devices;
    }
}
