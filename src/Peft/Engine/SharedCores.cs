using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;
using Microsoft.Win32.SafeHandles;

namespace Peft.Engine;

/// <summary>
/// Lets a computation live with other programs on its cores. The engine's threads wait for one another by spinning, which is fastest
/// where each has a core to itself; where another program holds a core, the thread that spins takes the time that the one it waits for
/// needs, and a training slows down to a hundredth. So while an operation runs, this looks how long its threads stand in the queue for a
/// processor, and lets them sleep while they wait, and have short turns, until the cores are free again.
/// </summary>
/// <remarks>
/// GNU's OpenMP spins briefly as soon as it manages more threads than there are processors. A second team, which does nothing and sleeps,
/// brings that about, and its end takes it back. The computation keeps its number of threads, so its results don't change by a bit.
/// Where the engine has another OpenMP, or the user chose how it waits, nothing happens.
/// </remarks>
internal sealed class SharedCores : IDisposable
{
    private const string WaitPolicy = "OMP_WAIT_POLICY";
    private const string SpinCount = "GOMP_SPINCOUNT";

    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(200);
    private static readonly Lock s_gate = new();
    private static bool s_isOurs;
    private static int s_operations;
    private static SharedCores? s_watch;

    private readonly ManualResetEventSlim _ended = new();
    private SleepingTeam? _team;

    private SharedCores()
    {
    }

    /// <summary>Whether the cores are shared at the moment, so that the engine's threads sleep while they wait.</summary>
    public static bool AreShared => Volatile.Read(ref s_watch)?._team is not null;

    /// <summary>
    /// Says how GNU's OpenMP waits: as long as it does by itself (three milliseconds), but a thousand turns instead of a hundred where it
    /// manages more threads than there are processors, which is quicker for the many small operators of a model.
    /// </summary>
    public static void SetWaiting(Action<string, string> setUnlessGiven)
    {
        if (new[] { WaitPolicy, SpinCount }.Any(static name => !string.IsNullOrEmpty(Environment.GetEnvironmentVariable(name))))
        {
            return;
        }

        setUnlessGiven(WaitPolicy, "active");
        setUnlessGiven(SpinCount, "300000");
        s_isOurs = true;
    }

    /// <summary>Watches from here to the end of the operation; operations may overlap.</summary>
    public static IDisposable? Watch()
    {
        if (!OperatingSystem.IsLinux() || !s_isOurs)
        {
            return null;
        }

        lock (s_gate)
        {
            if (s_operations++ == 0)
            {
                s_watch = new SharedCores();
                new Thread(s_watch.Run) { IsBackground = true, Name = "Peft: shared cores" }.Start();
            }

            return new Operation();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _ended.Set();

    private static void End()
    {
        lock (s_gate)
        {
            if (--s_operations == 0)
            {
                s_watch!.Dispose();
                s_watch = null;
            }
        }
    }

    [SupportedOSPlatform("linux")]
    private void Run()
    {
        using var queue = new RunQueue();
        var sharing = new Sharing();
        while (!_ended.Wait(s_interval))
        {
            var shared = sharing.Sees(queue.WaitingThreads());
            if (shared)
            {
                _team ??= SleepingTeam.Start();
                queue.ShortenTurns();
            }
            else
            {
                EndTeam();
                queue.RestoreTurns();
            }
        }

        EndTeam();
        queue.RestoreTurns();
    }

    private void EndTeam()
    {
        _team?.Dispose();
        _team = null;
    }

    private sealed class Operation : IDisposable
    {
        private int _released;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _released, 1) == 0)
            {
                End();
            }
        }
    }
}

/// <summary>
/// Decides from how many threads stood in the queue whether the cores are shared: within a second that they are, slowly that they no longer are. What
/// others do now and then (a prompt, a timer) makes no share of them.
/// </summary>
internal sealed class Sharing
{
    private const double Begin = 0.25;
    private const double End = 0.06;
    private const double Weight = 0.3;
    private const int QuietIntervals = 10;

    private bool _isShared;
    private double _average;
    private int _quiet;

    /// <summary>Takes one interval's measure in.</summary>
    /// <param name="waiting">How many of the process's threads were ready to run and had no processor, on average.</param>
    public bool Sees(double waiting)
    {
        _average += Weight * (waiting - _average);
        _quiet = waiting < End ? _quiet + 1 : 0;
        _isShared = _average > Begin || (_isShared && _quiet < QuietIntervals);
        return _isShared;
    }
}

/// <summary>How many threads of this process were ready to run and had no processor, on average since the last question.</summary>
/// <remarks>It is asked while every core computes, so files are opened once a thread and read again and again.</remarks>
[SupportedOSPlatform("linux")]
internal sealed class RunQueue : IDisposable
{
    private const int QuestionsBetweenLooks = 5;

    private readonly System.Diagnostics.Stopwatch _clock = new();
    private readonly Dictionary<int, (SafeFileHandle File, long Waited)> _threads = [];
    private readonly HashSet<int> _shortened = [];
    private int _questions;

    /// <summary>Zero at the first question, and where the kernel keeps no account.</summary>
    public double WaitingThreads()
    {
        long waited = 0;
        foreach (var (thread, (file, before)) in _threads.ToArray())
        {
            if (Waited(file) is { } now)
            {
                waited += now - before;
                _threads[thread] = (file, now);
            }
            else
            {
                file.Dispose();
                _threads.Remove(thread);
                _shortened.Remove(thread);
            }
        }

        var nanoseconds = _clock.Elapsed.TotalNanoseconds;
        _clock.Restart();
        if (_questions++ % QuestionsBetweenLooks == 0)
        {
            FindNewThreads();
        }

        return nanoseconds == 0 ? 0 : waited / nanoseconds;
    }

    /// <summary>Gives the threads that are known short turns (<see cref="ThreadTurns"/>), those that have them already excepted.</summary>
    public void ShortenTurns()
    {
        foreach (var thread in _threads.Keys.Where(_shortened.Add))
        {
            ThreadTurns.Shorten(thread);
        }
    }

    /// <summary>Takes back what <see cref="ShortenTurns"/> did.</summary>
    public void RestoreTurns()
    {
        foreach (var thread in _shortened)
        {
            ThreadTurns.Restore(thread);
        }

        _shortened.Clear();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (file, _) in _threads.Values)
        {
            file.Dispose();
        }

        _threads.Clear();
    }

    private void FindNewThreads()
    {
        try
        {
            foreach (var folder in Directory.EnumerateDirectories("/proc/self/task"))
            {
                var thread = int.Parse(Path.GetFileName(folder), CultureInfo.InvariantCulture);
                if (!_threads.ContainsKey(thread))
                {
                    var file = File.OpenHandle(Path.Combine(folder, "schedstat"));
                    _threads.Add(thread, (file, Waited(file) ?? 0));
                }
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // A thread has ended meanwhile; the others are found the next time.
        }
    }

    /// <summary>The second field of <c>schedstat</c> (kernel documentation, scheduler/sched-stats): nanoseconds spent waiting on a run queue. Null where the thread has ended.</summary>
    private static long? Waited(SafeFileHandle file)
    {
        Span<byte> text = stackalloc byte[96];
        try
        {
            text = text[..RandomAccess.Read(file, text, 0)];
        }
        catch (IOException)
        {
            return null;
        }

        var start = text.IndexOf((byte)' ') + 1;
        return start > 0 && System.Buffers.Text.Utf8Parser.TryParse(text[start..], out long waited, out _) ? waited : null;
    }
}

/// <summary>A team of OpenMP threads that has nothing to do and sleeps, so that OpenMP counts more threads than there are processors.</summary>
internal sealed class SleepingTeam : IDisposable
{
    private readonly ManualResetEventSlim _ended = new();
    private readonly Thread _thread;

    private SleepingTeam(OpenMp library, int threads)
    {
        // free(null) does nothing: the work of a team that has none.
        var nothing = NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), "free");
        _thread = new Thread(() =>
        {
            library.Run(nothing, 0, threads);
            _ended.Wait();
        }) { IsBackground = true, Name = "Peft: sleeping team" };
        _thread.Start();
    }

    /// <summary>Makes the team, or null where libtorch has another OpenMP.</summary>
    public static SleepingTeam? Start() =>
        OpenMp.Loaded is { } library ? new SleepingTeam(library, Math.Max(2, library.Processors - ComputeThreads.Count + 2)) : null;

    /// <summary>Ends the team's thread, and with it its count.</summary>
    public void Dispose()
    {
        _ended.Set();
        _thread.Join();
        _ended.Dispose();
    }
}
