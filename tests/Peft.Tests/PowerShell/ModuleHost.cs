using System.Collections.ObjectModel;
using System.Management.Automation;
using System.Management.Automation.Host;
using System.Management.Automation.Runspaces;

namespace Peft.Tests.PowerShell;

/// <summary>
/// A runspace of PowerShell's own engine with the built module imported, as a user has it after the build. The engine's package has neither
/// Microsoft.PowerShell.Utility nor Management, so scripts here use Core cmdlets and the language alone.
/// </summary>
public sealed class ModuleHost : IDisposable
{
    private readonly Runspace _runspace;

    public ModuleHost()
        : this(screen: null)
    {
    }

    /// <summary>A shell at a host of the test's own.</summary>
    internal ModuleHost(PSHost? screen)
    {
        var state = InitialSessionState.CreateDefault2();
        state.ImportPSModule([ManifestPath]);
        _runspace = screen is null ? RunspaceFactory.CreateRunspace(state) : RunspaceFactory.CreateRunspace(screen, state);
        _runspace.Open();
    }

    /// <summary>The repository's root: the folder that holds Peft.psd1.</summary>
    public static string Root => RepositoryRoot.Folder;

    public static string ManifestPath => Path.Combine(Root, "Peft.psd1");

    /// <summary>Runs a script with arguments as $args and returns everything it wrote.</summary>
    public HostResult Run(string script, params object?[] arguments)
    {
        using var shell = Create(script, arguments);
        try
        {
            var output = shell.Invoke();
            return new HostResult(output, [.. shell.Streams.Error], [.. shell.Streams.Warning], [.. shell.Streams.Information], [.. shell.Streams.Progress]);
        }
        catch (RuntimeException error)
        {
            return new HostResult([], [.. shell.Streams.Error, error.ErrorRecord], [.. shell.Streams.Warning], [.. shell.Streams.Information], [.. shell.Streams.Progress]);
        }
    }

    /// <summary>Runs a script that must write no error, and returns its output.</summary>
    public Collection<PSObject> Output(string script, params object?[] arguments)
    {
        var result = Run(script, arguments);
        Assert.True(result.Errors.Count == 0, string.Join(Environment.NewLine, result.Errors.Select(static error => $"{error.FullyQualifiedErrorId}: {error}")));
        return result.Output;
    }

    /// <summary>A pipeline that the test starts and stops itself.</summary>
    public System.Management.Automation.PowerShell Create(string script, params object?[] arguments)
    {
        var shell = System.Management.Automation.PowerShell.Create(_runspace);
        shell.AddScript(script);
        foreach (var argument in arguments)
        {
            shell.AddArgument(argument);
        }

        return shell;
    }

    /// <summary>What completion offers at the end of a line.</summary>
    public IReadOnlyList<string> Complete(string line)
    {
        using var shell = System.Management.Automation.PowerShell.Create(_runspace);
        var completion = CommandCompletion.CompleteInput(line, line.Length, options: null, shell);
        return [.. completion.CompletionMatches.Select(static match => match.CompletionText)];
    }

    public void Dispose() => _runspace.Dispose();
}

/// <summary>What a script wrote.</summary>
public sealed record HostResult(
    Collection<PSObject> Output,
    IReadOnlyList<ErrorRecord> Errors,
    IReadOnlyList<WarningRecord> Warnings,
    IReadOnlyList<InformationRecord> Information,
    IReadOnlyList<ProgressRecord> Progress);
