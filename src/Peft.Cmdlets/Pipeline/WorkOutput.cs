using System.Collections.Concurrent;
using System.Management.Automation;

namespace Peft.Cmdlets.Pipeline;

/// <summary>
/// How work on its own thread talks to its cmdlet: a bounded queue that the pipeline thread drains, for PowerShell lets only that thread write.
/// A full queue makes the work wait; a stopped command makes every call here end it.
/// </summary>
public sealed class WorkOutput
{
    private const int Capacity = 64;

    private readonly BlockingCollection<Action<PeftCmdlet>> _queue = new(Capacity);

    internal WorkOutput(CancellationToken cancellation) => Cancellation = cancellation;

    /// <summary>Cancelled when the command is stopped.</summary>
    public CancellationToken Cancellation { get; }

    /// <summary>Puts an object into the pipeline.</summary>
    public void WriteObject(object? value, bool enumerate = false) => Post(cmdlet => cmdlet.WriteObject(value, enumerate));

    /// <summary>Shows progress.</summary>
    public void WriteProgress(ProgressRecord record)
    {
        record.Activity = VisibleText.Of(record.Activity);
        record.StatusDescription = VisibleText.Of(record.StatusDescription);
        Post(cmdlet => cmdlet.WriteProgress(record));
    }

    /// <summary>Shows a line with <c>-Verbose</c>.</summary>
    public void WriteVerbose(string text) => Post(cmdlet => cmdlet.WriteVerbose(text));

    /// <summary>Shows a warning.</summary>
    public void WriteWarning(string text) => Post(cmdlet => cmdlet.WriteWarning(text));

    /// <summary>Shows a line to the person at the host that is not part of the output.</summary>
    public void WriteLine(string text) => Post(cmdlet => cmdlet.WriteLine(text));

    /// <summary>Shows a piece of text to the person at the host, without a new line.</summary>
    public void WriteHost(string text) => Post(cmdlet => cmdlet.Host.UI.Write(VisibleText.Of(text)));

    /// <summary>Has something done on the pipeline's thread, such as a script block of the caller's, and waits for it.</summary>
    /// <exception cref="OperationCanceledException">The command was stopped.</exception>
    public T Call<T>(Func<PeftCmdlet, T> work)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        Post(cmdlet =>
        {
            try
            {
                done.SetResult(work(cmdlet));
            }
            catch (Exception error)
            {
                done.SetException(error);
                if (error is PipelineStoppedException)
                {
                    throw;
                }
            }
        });
        return done.Task.WaitAsync(Cancellation).GetAwaiter().GetResult();
    }

    /// <summary>Does something on the pipeline thread, where script blocks run.</summary>
    internal void Do(Action<PeftCmdlet> act) => Post(act);

    /// <summary>Writes everything that arrives until <see cref="Complete"/>; on the pipeline thread.</summary>
    /// <exception cref="OperationCanceledException">The command was stopped.</exception>
    internal void Drain(PeftCmdlet cmdlet)
    {
        foreach (var write in _queue.GetConsumingEnumerable(Cancellation))
        {
            write(cmdlet);
        }
    }

    /// <summary>Says that nothing more will come.</summary>
    internal void Complete() => _queue.CompleteAdding();

    private void Post(Action<PeftCmdlet> write) => _queue.Add(write, Cancellation);
}
