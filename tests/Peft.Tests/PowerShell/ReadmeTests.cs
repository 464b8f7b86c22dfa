using System.Management.Automation.Runspaces;
using System.Text.RegularExpressions;
using Peft.Adapters.Model;

namespace Peft.Tests.PowerShell;

/// <summary>The first thing a reader tries.</summary>
public sealed partial class ReadmeTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("peft-readme");

    [Fact]
    public void The_first_block_runs_as_it_stands()
    {
        var block = FirstBlock().Match(File.ReadAllText(Path.Combine(RepositoryRoot.Folder, "README.md"))).Groups[1].Value;
        LayOutCheckout();
        using var runspace = RunspaceFactory.CreateRunspace(InitialSessionState.CreateDefault2());
        runspace.Open();
        runspace.SessionStateProxy.Path.SetLocation(_folder.FullName);
        using var shell = System.Management.Automation.PowerShell.Create(runspace);
        var output = shell.AddScript(block).Invoke();

        Assert.Empty(shell.Streams.Error);
        Assert.Contains(output, static value => value.BaseObject.GetType().Name == "GenerationResult" && value.ToString().Contains("Austin", StringComparison.Ordinal));
        string[] written = ["out/capitals/adapter_config.json", "out/capitals/adapter_model.safetensors", "merged/config.json", "merged/model.safetensors", "merged/tokenizer.json"];
        Assert.All(written, file => Assert.True(File.Exists(Path.Combine(_folder.FullName, file)), file));
        shell.Commands.Clear();
        shell.AddScript("$model | Remove-PeftModel").Invoke();
    }

    public void Dispose() => _folder.Delete(recursive: true);

    /// <summary>What the block reads, in a folder that it may write to: the manifest with its way to the built module, and the assets.</summary>
    private void LayOutCheckout()
    {
        var manifest = File.ReadAllText(ModuleHost.ManifestPath).Replace("'bin/", $"'{RepositoryRoot.Folder}/bin/", StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(_folder.FullName, "Peft.psd1"), manifest);
        foreach (var file in Directory.EnumerateFiles(Path.Combine(RepositoryRoot.Folder, "assets"), "*", SearchOption.AllDirectories))
        {
            var copy = Path.Combine(_folder.FullName, Path.GetRelativePath(RepositoryRoot.Folder, file));
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(file, copy);
        }
    }

    [GeneratedRegex(@"```powershell\r?\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex FirstBlock();
}
