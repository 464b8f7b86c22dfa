using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace Peft.Engine.Steps;

/// <summary>
/// Operations one after another, by all of the engine's threads at once: they are called together once for all operations and wait for one another
/// between two of them, where calling them together for each would take longer than the work of many.
/// </summary>
internal sealed unsafe class StepProgram : IDisposable
{
    private const int Alignment = 64;

    // A thread that waits for another one, which has a processor, waits for less than this; one that hasn't is let on.
    private const int Turns = 4000;

    private readonly StepOperation[] _operations;
    private readonly bool _isLaunched;
    private float* _scratch;
    private long _scratchFloats;
    private long _stride;

    /// <summary>Takes the operations over.</summary>
    public StepProgram(IReadOnlyList<StepOperation> operations)
    {
        _operations = [.. operations];
        _isLaunched = Array.Exists(_operations, static operation => operation.IsLaunched);
    }

    /// <summary>Runs them.</summary>
    public void Run()
    {
        foreach (var operation in _operations)
        {
            operation.Prepare();
        }

        if (_isLaunched)
        {
            foreach (var operation in _operations)
            {
                operation.RunAlone();
            }

            return;
        }

        var threads = ComputeThreads.Count;
        Reserve(threads);
        if (threads > 1 && OpenMp.Loaded is { } library)
        {
            var handle = GCHandle.Alloc(this);
            var job = new Job { Program = GCHandle.ToIntPtr(handle) };
            library.Run((nint)(delegate* unmanaged<Job*, void>)&RunShare, (nint)(&job), threads);
            handle.Free();
        }
        else
        {
            foreach (var operation in _operations)
            {
                RunAlone(operation, threads);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var operation in _operations)
        {
            operation.Dispose();
        }

        NativeMemory.AlignedFree(_scratch);
        _scratch = null;
        _scratchFloats = 0;
    }

    [UnmanagedCallersOnly]
    private static void RunShare(Job* job)
    {
        var library = OpenMp.Loaded!;
        ((StepProgram)GCHandle.FromIntPtr(job->Program).Target!).RunShare(job, library.ThreadNumber, library.TeamSize);
    }

    private static long Sharing(StepOperation operation, int threads) => Math.Min(threads, (operation.Parts + operation.Grain - 1) / operation.Grain);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void WaitFor(ref long arrived, long number)
    {
        for (var turn = 0; Volatile.Read(ref arrived) < number; turn++)
        {
            if (turn > Turns)
            {
                Thread.Yield();
            }
            else if (X86Base.IsSupported)
            {
                X86Base.Pause();
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void RunShare(Job* job, int thread, int threads)
    {
        var scratch = _scratch + (thread * _stride);
        long passed = 0;
        foreach (var operation in _operations)
        {
            var (parts, sharing) = (operation.Parts, Sharing(operation, threads));
            if (operation.IsRepeated)
            {
                // What a thread reads next it has written itself, and what it writes next nobody reads here.
                operation.Run(0, parts, scratch);
                continue;
            }

            if (thread < sharing)
            {
                operation.Run(parts * thread / sharing, parts * (thread + 1) / sharing, scratch);
            }

            passed += threads;
            Interlocked.Increment(ref job->Arrived);
            WaitFor(ref job->Arrived, passed);
        }
    }

    private void RunAlone(StepOperation operation, int threads)
    {
        var (parts, sharing) = (operation.Parts, (int)Sharing(operation, threads));
        if (sharing <= 1)
        {
            operation.Run(0, parts, _scratch);
        }
        else
        {
            Parallel.For(0, sharing, new ParallelOptions { MaxDegreeOfParallelism = sharing }, thread =>
                operation.Run(parts * thread / sharing, parts * (thread + 1) / sharing, _scratch + (thread * _stride)));
        }
    }

    private void Reserve(int threads)
    {
        var most = 0;
        foreach (var operation in _operations)
        {
            most = Math.Max(most, operation.ScratchFloats);
        }

        const int FloatsAtOnce = Alignment / sizeof(float);
        _stride = (most + FloatsAtOnce - 1) / FloatsAtOnce * FloatsAtOnce;
        if (_scratchFloats < threads * _stride)
        {
            NativeMemory.AlignedFree(_scratch);
            _scratchFloats = 2 * threads * _stride;
            _scratch = (float*)NativeMemory.AlignedAlloc((nuint)_scratchFloats * sizeof(float), Alignment);
        }
    }

    // What all threads write stands in a cache line of its own.
    [StructLayout(LayoutKind.Explicit, Size = 3 * Alignment)]
    private struct Job
    {
        [FieldOffset(0)]
        public nint Program;

        [FieldOffset(Alignment)]
        public long Arrived;
    }
}
