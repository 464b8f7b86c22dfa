using System.Collections.Concurrent;
using System.Management.Automation;
using System.Management.Automation.Runspaces;
using System.Reflection;

namespace Peft.Cmdlets.Pipeline;

/// <summary>
/// A command that runs on in the background of this process, as PowerShell's jobs do: Receive-Job brings its output and messages, Wait-Job waits, Stop-Job ends it as Ctrl-C
/// would (a training leaves its checkpoint). What it puts out are the live objects. It has a runspace of its own with this module's cmdlets.
/// </summary>
internal sealed class PeftJob : Job
{
    private static readonly ConcurrentDictionary<Guid, byte> s_runspaces = new();

    private readonly Runspace _runspace;
    private readonly PowerShell _shell;
    private readonly Lock _gate = new();
    private bool _isDisposed;

    /// <summary>Makes a job that isn't started.</summary>
    /// <param name="command">The line that the user typed, for lists.</param>
    /// <param name="folder">The file system's folder that it runs in.</param>
    /// <param name="calls">The command's parameters, one call after another.</param>
    /// <param name="name">The cmdlet's name.</param>
    public PeftJob(string command, string folder, string name, IReadOnlyList<IReadOnlyDictionary<string, object?>> calls)
        : base(command)
    {
        PSJobTypeName = nameof(PeftJob);
        var state = InitialSessionState.CreateDefault2();
        foreach (var type in typeof(PeftJob).Assembly.GetTypes().Where(static type => !type.IsAbstract && type.IsSubclassOf(typeof(PeftCmdlet))))
        {
            var own = type.GetCustomAttribute<CmdletAttribute>()!;
            state.Commands.Add(new SessionStateCmdletEntry($"{own.VerbName}-{own.NounName}", type, null));
        }

        _runspace = RunspaceFactory.CreateRunspace(state);
        _shell = PowerShell.Create();
        foreach (var call in calls)
        {
            _shell.AddStatement().AddCommand(name);
            foreach (var (parameter, value) in call)
            {
                _shell.AddParameter(parameter, Unbound(value));
            }
        }

        _shell.Streams.Error = Error;
        _shell.Streams.Warning = Warning;
        _shell.Streams.Verbose = Verbose;
        _shell.Streams.Debug = Debug;
        _shell.Streams.Progress = Progress;
        _shell.Streams.Information = Information;
        _shell.InvocationStateChanged += (_, change) => OnChanged(change.InvocationStateInfo);
        Folder = folder;
    }

    /// <inheritdoc/>
    public override bool HasMoreData => Output.Count > 0 || Error.Count > 0 || Warning.Count > 0 || Verbose.Count > 0 || Information.Count > 0 || Progress.Count > 0;

    /// <inheritdoc/>
    public override string Location => "this process";

    /// <inheritdoc/>
    public override string StatusMessage => "";

    private string Folder { get; }

    /// <summary>Whether a runspace is a job's. Nobody waits at a prompt there: work that is stopped may take its time to put things away.</summary>
    public static bool Has(Runspace? runspace) => runspace is not null && s_runspaces.ContainsKey(runspace.InstanceId);

    /// <summary>Starts it.</summary>
    public void Start()
    {
        _runspace.Open();
        s_runspaces.TryAdd(_runspace.InstanceId, 0);
        _runspace.SessionStateProxy.Path.SetLocation(WildcardPattern.Escape(Folder));
        _shell.Runspace = _runspace;
        SetJobState(JobState.Running);
        _shell.BeginInvoke<PSObject, PSObject>(null, Output);
    }

    /// <inheritdoc/>
    public override void StopJob()
    {
        if (JobStateInfo.State == JobState.Running)
        {
            SetJobState(JobState.Stopping);
            _shell.Stop();
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            lock (_gate)
            {
                if (_isDisposed)
                {
                    return;
                }

                _isDisposed = true;
            }

            StopJob();
            _shell.Dispose();
            s_runspaces.TryRemove(_runspace.InstanceId, out _);
            _runspace.Dispose();
        }

        base.Dispose(disposing);
    }

    /// <summary>A script block runs where it was written; in the job's runspace it has to be one of its own.</summary>
    private static object? Unbound(object? value) => value switch
    {
        ScriptBlock script => ScriptBlock.Create(script.ToString()),
        PSObject { BaseObject: ScriptBlock script } => ScriptBlock.Create(script.ToString()),
        object[] list => list.Select(Unbound).ToArray(),
        _ => value,
    };

    private void OnChanged(PSInvocationStateInfo info)
    {
        JobState? end = info.State switch
        {
            PSInvocationState.Completed => JobState.Completed,
            PSInvocationState.Failed => JobState.Failed,
            PSInvocationState.Stopped => JobState.Stopped,
            _ => null,
        };
        if (end is not { } state)
        {
            return;
        }

        if (state == JobState.Failed && info.Reason is RuntimeException { ErrorRecord: { } record })
        {
            Error.Add(record);
        }

        SetJobState(state);
    }
}
