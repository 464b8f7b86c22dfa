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

    // So often it is looked whether that one has a processor at all.
    private const int TurnsOfLook = 64;

    // Numbers from one thread's processor to the next one's: a cache line.
    private const int Distance = Alignment / sizeof(int);

    private readonly StepOperation[] _operations;
    private readonly bool _isLaunched;

    // For each operation the next one that reads weights.
    private readonly StepOperation?[] _readers;
    private float* _scratch;
    private int* _processors;
    private int _threads;
    private long _scratchFloats;
    private long _stride;

    /// <summary>Takes the operations over.</summary>
    public StepProgram(IReadOnlyList<StepOperation> operations)
    {
        _operations = [.. operations];
        _isLaunched = Array.Exists(_operations, static operation => operation.IsLaunched);
        _readers = new StepOperation?[_operations.Length];
        for (var i = _operations.Length - 2; i >= 0 && !_isLaunched; i--)
        {
            _readers[i] = _operations[i + 1].Weights(0, _operations[i + 1].Parts).Bytes > 0 ? _operations[i + 1] : _readers[i + 1];
        }
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
        NativeMemory.AlignedFree(_processors);
        _scratch = null;
        _processors = null;
        (_scratchFloats, _threads) = (0, 0);
    }

    [UnmanagedCallersOnly]
    private static void RunShare(Job* job)
    {
        var library = OpenMp.Loaded!;
        ((StepProgram)GCHandle.FromIntPtr(job->Program).Target!).RunShare(job, library.ThreadNumber, library.TeamSize);
    }

    private static long Sharing(StepOperation operation, int threads) => Math.Min(threads, (operation.Parts + operation.Grain - 1) / operation.Grain);

    /// <summary>Waits until threads have arrived. Meanwhile it calls weights that it will read, and lets a thread on that can't run but on this processor.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void WaitFor(ref long arrived, long number, int thread, int threads, ref WeightsAhead ahead)
    {
        var isShared = false;
        for (var turn = 0; Volatile.Read(ref arrived) < number; turn++)
        {
            if (ahead.CallNext())
            {
                continue;
            }

            if (turn % TurnsOfLook == 0)
            {
                isShared = IsProcessorShared(thread, threads);
            }

            if (isShared || turn > Turns)
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
        StepOperation? reader = null;
        WeightsAhead ahead = default;
        for (var i = 0; i < _operations.Length; i++)
        {
            var operation = _operations[i];
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
            StandOn(thread);
            Interlocked.Increment(ref job->Arrived);
            if (_readers[i] is { } next && !ReferenceEquals(next, reader))
            {
                (reader, ahead) = (next, Ahead(next, thread, Sharing(next, threads)));
            }

            WaitFor(ref job->Arrived, passed, thread, threads, ref ahead);
        }
    }

    private static WeightsAhead Ahead(StepOperation operation, int thread, long sharing) =>
        thread < sharing ? WeightsAhead.Of(operation, operation.Parts * thread / sharing, operation.Parts * (thread + 1) / sharing) : default;

    /// <summary>Notes where a thread runs.</summary>
    private void StandOn(int thread)
    {
        var processor = Thread.GetCurrentProcessorId();
        if (_processors[thread * Distance] != processor)
        {
            Volatile.Write(ref _processors[thread * Distance], processor);
        }
    }

    /// <summary>Whether another thread was last seen on this thread's processor, as happens beside other programs.</summary>
    private bool IsProcessorShared(int thread, int threads)
    {
        var processor = _processors[thread * Distance];
        for (var other = 0; other < threads; other++)
        {
            if (other != thread && Volatile.Read(ref _processors[other * Distance]) == processor)
            {
                return true;
            }
        }

        return false;
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

        if (_threads < threads)
        {
            NativeMemory.AlignedFree(_processors);
            _threads = threads;
            _processors = (int*)NativeMemory.AlignedAlloc((nuint)(threads * Alignment), Alignment);
            new Span<int>(_processors, threads * Distance).Fill(-1);
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
