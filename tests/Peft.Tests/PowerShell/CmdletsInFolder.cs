using Peft.Adapters.Model;

namespace Peft.Tests.PowerShell;

/// <summary>Tests whose shell stands in a folder of their own, which is gone afterwards, where they want it with the embedded model.</summary>
public abstract class CmdletsInFolder : IClassFixture<ModuleHost>, IDisposable
{
    private protected readonly ModuleHost host;
    private protected readonly DirectoryInfo folder = Directory.CreateTempSubdirectory("peft-cmdlets");
    private protected readonly object? model;

    /// <summary>Goes to the folder.</summary>
    /// <param name="host">The shell.</param>
    /// <param name="import">Options of Import-PeftModel; null for no model.</param>
    protected CmdletsInFolder(ModuleHost host, string? import)
    {
        this.host = host;
        GoTo(folder.FullName);
        model = import is null ? null : host.Output($"Import-PeftModel $args[0] {import}", PocketLlama)[0];
    }

    private protected static string PocketLlama { get; } = Path.Combine(ModuleHost.Root, "assets", "pocket-llama");

    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
        if (model is not null)
        {
            host.Run("$args[0] | Remove-PeftModel", model);
        }

        GoTo(Path.GetTempPath());
        folder.Delete(recursive: true);
    }

    private void GoTo(string path) => host.Output("$null = $ExecutionContext.SessionState.Path.SetLocation($args[0])", path);
}
