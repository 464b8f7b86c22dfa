using System.Runtime.ExceptionServices;

namespace Peft.Cmdlets.Pipeline;

/// <summary>One piece of long work on a thread of its own, since dispose scopes and <c>no_grad</c> belong to a thread.</summary>
internal sealed class Worker<T>
{
    /// <summary>Native frames and deep JSON need more than a secondary thread's default on some systems.</summary>
    private const int StackBytes = 16 << 20;

    private readonly Thread _thread;
    private T? _result;
    private ExceptionDispatchInfo? _error;

    private Worker(Func<WorkOutput, T> work, WorkOutput output)
    {
        _thread = new Thread(() => Execute(work, output), StackBytes) { IsBackground = true, Name = "Peft" };
    }

    /// <summary>Whether the thread has ended.</summary>
    public bool HasEnded => !_thread.IsAlive;

    /// <summary>Starts the work.</summary>
    public static Worker<T> Start(Func<WorkOutput, T> work, WorkOutput output)
    {
        var worker = new Worker<T>(work, output);
        worker._thread.Start();
        return worker;
    }

    /// <summary>What the work returned, once it has ended; or throws what it threw.</summary>
    public T Result()
    {
        _thread.Join();
        _error?.Throw();
        return _result!;
    }

    /// <summary>Waits for the end for at most this long.</summary>
    public void WaitToEnd(TimeSpan limit) => _thread.Join(limit);

    private void Execute(Func<WorkOutput, T> work, WorkOutput output)
    {
        try
        {
            _result = work(output);
        }
        catch (Exception caught)
        {
            _error = ExceptionDispatchInfo.Capture(caught);
        }
        finally
        {
            output.Complete();
        }
    }
}
