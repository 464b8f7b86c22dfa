using System.Diagnostics;
using System.Runtime.CompilerServices;
using Peft.Files;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Tensors;

/// <summary>A process of its own that dies while it saves.</summary>
public sealed class KilledProcessTests : IDisposable
{
    private const string TargetVariable = "PEFT_TEST_DIE_WHILE_SAVING_TO";
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [SkippableFact]
    public void AProcessKilledInMidSaveLeavesTheOldModelWhole()
    {
        string host = Environment.ProcessPath!;
        Skip.IfNot(Path.GetFileNameWithoutExtension(host) == "dotnet", "The tests don't run under the dotnet host, so no second process can be started the same way.");
        string path = _folder["model.safetensors"];
        SafetensorsWriter.Write(path, [("x", ones(1000))]);

        var start = new ProcessStartInfo(host, ["exec", typeof(KilledProcessTests).Assembly.Location]) { UseShellExecute = false, RedirectStandardError = true, RedirectStandardOutput = true };
        start.Environment[TargetVariable] = path;
        using Process child = Process.Start(start)!;
        Task<string> output = child.StandardOutput.ReadToEndAsync();
        string errors = child.StandardError.ReadToEnd();
        child.WaitForExit();

        Assert.True(output.Result.StartsWith("saving", StringComparison.Ordinal), errors);
        Assert.NotEqual(0, child.ExitCode);
        using (SafetensorsFile file = SafetensorsFile.Open(path))
        {
            Assert.Equal(1000, file.Read("x").sum().item<float>());
        }

        Assert.Equal([path], Directory.GetFiles(_folder.Path, "*.safetensors"));
        SafetensorsWriter.Write(path, [("x", zeros(1000))]);
        using TensorStore store = TensorStore.OpenFolder(_folder.Path);
        Assert.Equal(0, store.Read("x").sum().item<float>());
    }

    /// <summary>What the child does as soon as this assembly is loaded; in the tests themselves the variable is not set.</summary>
    [ModuleInitializer]
    internal static void DieWhileSaving()
    {
        if (Environment.GetEnvironmentVariable(TargetVariable) is { } path)
        {
            AtomicFile.Write(path, stream =>
            {
                stream.Write(new byte[3_000_000]);
                stream.Flush();
                Console.WriteLine("saving");
                Process.GetCurrentProcess().Kill();
                Thread.Sleep(Timeout.Infinite);
            });
        }
    }
}
