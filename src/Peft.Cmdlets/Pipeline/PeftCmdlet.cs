using System.Management.Automation;
using System.Management.Automation.Runspaces;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;

namespace Peft.Cmdlets.Pipeline;

/// <summary>
/// What every cmdlet shares: errors become records with a stable id, and long work runs on a thread of its own that ends with
/// Ctrl-C and with <c>Select-Object -First</c>.
/// </summary>
public abstract class PeftCmdlet : PSCmdlet, IDynamicParameters, IDisposable
{
    /// <summary>The line of progress that says what a command waits for; others have their thread's number.</summary>
    private const int WaitingId = 1 << 30;

    private readonly CancellationTokenSource _cancellation = new();
    private readonly Lock _gate = new();
    private readonly List<Dictionary<string, object?>> _calls = [];
    private HashSet<string> _typed = [];
    private bool _disposed;

    /// <summary>Cancelled by Ctrl-C, and when the pipeline ends before the work does.</summary>
    protected CancellationToken Cancellation => _cancellation.Token;

    /// <summary>
    /// Whether an error while processing one input object ends the command. By default it is written to the error stream and the next
    /// object is processed.
    /// </summary>
    protected virtual bool EndsOnError => false;

    /// <summary>Parameters that are known while a command runs: beside a command's own, in a command line that is bound, what takes arguments of no parameter.</summary>
    public virtual object GetDynamicParameters()
    {
        var parameters = new RuntimeDefinedParameterDictionary();
        if (MyInvocation.PipelinePosition > 0)
        {
            parameters.Add(SurplusArguments.ParameterName, SurplusArguments.Parameter(this));
        }

        return parameters;
    }

    /// <summary>Takes an argument that no parameter has the name of.</summary>
    /// <param name="name">Its name, as it was written.</param>
    /// <param name="value">Its value; null for none.</param>
    /// <returns>Whether the command has a use for it.</returns>
    internal virtual bool TakesArgument(string name, object? value) => false;

    /// <summary>Names that <see cref="TakesArgument"/> takes.</summary>
    internal virtual IEnumerable<string> OtherArgumentNames => [];

    /// <summary>What to do instead, where a command is easily taken for another; null for nothing.</summary>
    internal virtual string? SurplusAdvice => null;

    /// <inheritdoc/>
    protected sealed override void BeginProcessing()
    {
        if (WantsJob)
        {
            _typed = [.. MyInvocation.BoundParameters.Keys];
        }
        else
        {
            Guard(Begin, ends: true);
        }
    }

    /// <inheritdoc/>
    protected sealed override void ProcessRecord()
    {
        if (WantsJob)
        {
            _calls.Add(MyInvocation.BoundParameters.Where(static entry => entry.Key != nameof(IRunsAsJob.AsJob)).ToDictionary(static entry => entry.Key, static entry => (object?)entry.Value));
        }
        else
        {
            Guard(Process, EndsOnError);
        }
    }

    /// <inheritdoc/>
    protected sealed override void EndProcessing() => Guard(WantsJob ? StartJob : End, ends: true);

    /// <inheritdoc/>
    protected sealed override void StopProcessing() => Cancel();

    /// <summary>Runs once before any input arrives.</summary>
    protected virtual void Begin()
    {
    }

    /// <summary>Runs for each input object.</summary>
    protected virtual void Process()
    {
    }

    /// <summary>Runs once after the last input object.</summary>
    protected virtual void End()
    {
    }

    /// <summary>
    /// Runs <paramref name="work"/> on its own thread and returns what it returned. Until then this thread writes what the work hands to
    /// its <see cref="WorkOutput"/>.
    /// </summary>
    /// <exception cref="PipelineStoppedException">The command was stopped; the work has ended, or will when its native call does.</exception>
    protected T Run<T>(Func<WorkOutput, T> work)
    {
        var output = new WorkOutput(Cancellation);
        var flow = Flow(output.WriteProgress);
        var worker = Worker<T>.Start(
            output =>
            {
                OperationFlow.Current = flow;
                return work(output);
            },
            output);
        try
        {
            output.Drain(this);
            return worker.Result();
        }
        catch (OperationCanceledException) when (_cancellation.IsCancellationRequested)
        {
            throw new PipelineStoppedException();
        }
        finally
        {
            if (!worker.HasEnded)
            {
                Cancel();
                worker.WaitToEnd(PeftJob.Has(Runspace.DefaultRunspace) ? TimeSpan.FromMinutes(5) : TimeSpan.FromSeconds(1.5));
            }
        }
    }

    /// <summary>Runs <paramref name="work"/> as <see cref="Run{T}"/> does.</summary>
    protected void Run(Action<WorkOutput> work) => Run(output =>
    {
        work(output);
        return true;
    });

    /// <summary>Does something with each of several inputs. What fails is written as an error about that input, and the others have their turn.</summary>
    private protected void Each<T>(IEnumerable<T> inputs, Action<T> act)
    {
        foreach (var input in inputs)
        {
            try
            {
                act(input);
            }
            catch (Exception error) when (ErrorMapping.IsOurs(error) && error is not OperationCanceledException)
            {
                WriteError(error, input);
            }
        }
    }

    private bool WantsJob => this is IRunsAsJob { AsJob.IsPresent: true };

    /// <summary>Has what was asked for done in the background. Values that came down the pipeline are one call, where a parameter takes several, as they would be here.</summary>
    private void StartJob()
    {
        string[] piped = [.. _calls.SelectMany(static call => call.Keys).Distinct().Where(name => !_typed.Contains(name))];
        if (piped is [var only] && _calls.Count > 1 && GetType().GetProperty(only)?.PropertyType is { IsArray: true } type)
        {
            var values = _calls.SelectMany(call => ((Array)call[only]!).Cast<object>()).ToArray();
            var all = Array.CreateInstance(type.GetElementType()!, values.Length);
            Array.Copy(values, all, values.Length);
            _calls[0][only] = all;
            _calls.RemoveRange(1, _calls.Count - 1);
        }

        var job = new PeftJob(MyInvocation.Line.Trim(), SessionState.Path.CurrentFileSystemLocation.ProviderPath, MyInvocation.MyCommand.Name, _calls);
        JobRepository.Add(job);
        job.Start();
        WriteObject(job);
    }

    /// <summary>Whether the command was asked to show neither lines nor progress, but for warnings.</summary>
    private protected virtual bool WantsQuiet => false;

    /// <summary>Shows progress, unless the command was asked to be quiet.</summary>
    internal new void WriteProgress(ProgressRecord record)
    {
        if (!WantsQuiet)
        {
            base.WriteProgress(record);
        }
    }

    /// <summary>A line for the person at the host, which is not part of the output: shown as <c>Write-Host</c> shows it, unless <c>-InformationAction</c> says otherwise.</summary>
    internal void WriteLine(string text) =>
        WriteInformation(new HostInformationMessage { Message = VisibleText.Of(text) }, IsQuiet ? [] : ["PSHOST"]);

    /// <summary>A line for the person at the host of a command that is being stopped, whose streams are closed already.</summary>
    private protected void WriteLastLine(string text)
    {
        if (!IsQuiet)
        {
            Host?.UI?.WriteLine(VisibleText.Of(text));
        }
    }

    /// <summary>Whether the user wants no lines: the host shows those that are marked for it whatever the action is.</summary>
    private bool IsQuiet => WantsQuiet || MyInvocation.BoundParameters.GetValueOrDefault("InformationAction") is ActionPreference.SilentlyContinue or ActionPreference.Ignore;

    /// <summary>Shows a warning. Names in it may be foreign: nothing in them reaches the terminal as a control code.</summary>
    internal new void WriteWarning(string text) => base.WriteWarning(VisibleText.Of(text));

    /// <summary>Shows a line with <c>-Verbose</c>, as <see cref="WriteWarning"/> does.</summary>
    internal new void WriteVerbose(string text) => base.WriteVerbose(VisibleText.Of(text));

    /// <summary>Writes an error about one of several inputs; the command goes on.</summary>
    protected void WriteError(Exception error, object? target = null) => WriteError(ErrorMapping.ToRecord(error, target));

    /// <summary>Whether the user gave a parameter.</summary>
    private protected bool Given(string parameter) => MyInvocation.BoundParameters.ContainsKey(parameter);

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Ends work that still runs.</summary>
    protected virtual void Dispose(bool disposing)
    {
        if (!disposing)
        {
            return;
        }

        Cancel();
        lock (_gate)
        {
            _disposed = true;
            _cancellation.Dispose();
        }
    }

    private void Cancel()
    {
        // Ctrl-C comes on another thread than the end of the pipeline.
        lock (_gate)
        {
            if (!_disposed)
            {
                _cancellation.Cancel();
            }
        }
    }

    /// <summary>What this pipeline does to models, asked on its own thread: what other runspaces do waits for it, and it for them; what a command further down this pipeline does can't.</summary>
    private OperationFlow Flow(Action<ProgressRecord> write) => new(
        (object?)Runspace.DefaultRunspace ?? this,
        text => write(new ProgressRecord(WaitingId, MyInvocation.MyCommand.Name, text ?? "done") { RecordType = text is null ? ProgressRecordType.Completed : ProgressRecordType.Processing }),
        Cancellation);

    private void Guard(Action step, bool ends)
    {
        var outer = OperationFlow.Current;
        OperationFlow.Current = Flow(WriteProgress);
        try
        {
            step();
        }
        catch (Exception error) when (ErrorMapping.IsOurs(error))
        {
            if (_cancellation.IsCancellationRequested && error is OperationCanceledException)
            {
                throw new PipelineStoppedException();
            }

            var record = ErrorMapping.ToRecord(error, target: null);
            if (ends)
            {
                ThrowTerminatingError(record);
            }

            WriteError(record);
        }
        finally
        {
            OperationFlow.Current = outer;
        }
    }
}
