using System.Runtime.InteropServices;

namespace Peft.Files;

/// <summary>
/// Keeps the process from ending while something promised is not on the disk yet: <c>exit</c>, SIGTERM and the end of the terminal cancel what holds, and wait for it.
/// A process that is killed outright can't be held.
/// </summary>
internal sealed class ExitHold : IDisposable
{
    /// <summary>How long an exit waits at most: a native call may never return.</summary>
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(2);

    private static readonly Lock s_gate = new();
    private static readonly HashSet<ExitHold> s_holds = [];
    private static PosixSignalRegistration[]? s_signals;
    private readonly ManualResetEventSlim _ended = new();
    private readonly CancellationTokenSource _cancellation;

    /// <summary>Holds until it is disposed of.</summary>
    /// <param name="cancellation">Cancels what is to be waited for, as well as the exit does.</param>
    public ExitHold(CancellationToken cancellation)
    {
        _cancellation = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        lock (s_gate)
        {
            if (s_signals is null)
            {
                AppDomain.CurrentDomain.ProcessExit += static (_, _) => Wait();
                s_signals = [.. ((PosixSignal[])[PosixSignal.SIGTERM, PosixSignal.SIGHUP]).Select(static signal => PosixSignalRegistration.Create(signal, OnSignal))];
            }

            s_holds.Add(this);
        }
    }

    /// <summary>Cancelled when the process is about to end.</summary>
    public CancellationToken Cancellation => _cancellation.Token;

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (s_gate)
        {
            s_holds.Remove(this);
        }

        _ended.Set();
        _cancellation.Dispose();
    }

    /// <summary>.NET leaves these signals to the system, which ends the process at once.</summary>
    private static void OnSignal(PosixSignalContext context)
    {
        const int EndedBySignal = 128, Hangup = 1, Terminate = 15;
        lock (s_gate)
        {
            context.Cancel = s_holds.Count > 0;
        }

        if (context.Cancel)
        {
            var code = EndedBySignal + (context.Signal == PosixSignal.SIGHUP ? Hangup : Terminate);
            new Thread(() => Environment.Exit(code)) { IsBackground = true }.Start();
        }
    }

    private static void Wait()
    {
        ExitHold[] holds;
        lock (s_gate)
        {
            holds = [.. s_holds];
        }

        foreach (var hold in holds)
        {
            try
            {
                hold._cancellation.Cancel();
            }
            catch (ObjectDisposedException)
            {
                // It has ended in this moment.
            }
        }

        var clock = System.Diagnostics.Stopwatch.StartNew();
        foreach (var hold in holds)
        {
            var left = s_longest - clock.Elapsed;
            hold._ended.Wait(left > TimeSpan.Zero ? left : TimeSpan.Zero);
        }
    }
}
