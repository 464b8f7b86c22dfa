using System.Runtime.InteropServices;

namespace Peft.Engine;

/// <summary>Work on rows by all of the engine's threads. Which thread takes which rows follows from their number alone, so results repeat bit by bit.</summary>
internal static unsafe class RowParallel
{
    /// <summary>Runs the work on ranges of rows that together are all of them.</summary>
    /// <param name="rows">Number of rows.</param>
    /// <param name="grain">Rows that are worth a thread of their own.</param>
    /// <param name="work">Takes the state, the first row and the row after the last. It must not throw.</param>
    /// <param name="state">What the work needs, on the caller's stack.</param>
    public static void Run(long rows, long grain, delegate*<void*, long, long, void> work, void* state)
    {
        var threads = (int)Math.Min(ComputeThreads.Count, (rows + grain - 1) / Math.Max(1, grain));
        if (threads <= 1)
        {
            work(state, 0, rows);
        }
        else if (OpenMp.Loaded is { } library)
        {
            var job = new Job { Work = work, State = state, Rows = rows };
            library.Run((nint)(delegate* unmanaged<Job*, void>)&RunShare, (nint)(&job), threads);
        }
        else
        {
            var (call, data) = ((nint)work, (nint)state);
            Parallel.For(0, threads, new ParallelOptions { MaxDegreeOfParallelism = threads }, thread =>
                ((delegate*<void*, long, long, void>)call)((void*)data, rows * thread / threads, rows * (thread + 1) / threads));
        }
    }

    [UnmanagedCallersOnly]
    private static void RunShare(Job* job)
    {
        var library = OpenMp.Loaded!;
        long thread = library.ThreadNumber, threads = library.TeamSize;
        job->Work(job->State, job->Rows * thread / threads, job->Rows * (thread + 1) / threads);
    }

    private struct Job
    {
        public delegate*<void*, long, long, void> Work;
        public void* State;
        public long Rows;
    }
}
