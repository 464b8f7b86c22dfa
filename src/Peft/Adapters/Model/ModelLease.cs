using Peft.Engine;

namespace Peft.Adapters.Model;

/// <summary>
/// One operation at a time on a model, each in its turn. Another flow's operation waits; one that starts from within the operation that holds the
/// model, on another thread, would wait for ever and is refused.
/// </summary>
internal sealed class ModelLease(string model)
{
    private static readonly TimeSpan s_moment = TimeSpan.FromMilliseconds(300);

    // Which flow waits for which model: one that would close a circle is told so.
    private static readonly Lock s_waitGate = new();
    private static readonly Dictionary<object, ModelLease> s_waits = new(ReferenceEqualityComparer.Instance);

    // Those who wait asynchronously get it in the order in which they came.
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly Lock _gate = new();
    private string? _operation;
    private OperationFlow? _flow;
    private int _thread;
    private int _depth;
    private IDisposable? _sharing;

    /// <summary>Takes the model, where need be after others; calls from within the operation, on its thread, go through.</summary>
    /// <exception cref="PeftException"><c>PeftModelBusy</c>.</exception>
    /// <exception cref="OperationCanceledException">The wait was cancelled.</exception>
    public IDisposable Acquire(string wanted)
    {
        lock (_gate)
        {
            if (_depth > 0 && _thread == Environment.CurrentManagedThreadId)
            {
                _depth++;
                return new Holder(this, begun: null);
            }

            if (_depth > 0 && _flow is { } holder && ReferenceEquals(holder.Identity, OperationFlow.Current?.Identity))
            {
                throw new PeftException("PeftModelBusy", $"The model '{model}' is busy with {_operation}, of which this ({wanted}) is a part: it would wait for itself.")
                {
                    Target = model,
                    RecommendedAction = "Let the other command end first: collect its output in a variable, and go on with that.",
                };
            }
        }

        var outer = OperationFlow.Current;
        BeginWait(outer, wanted);
        try
        {
            Wait(outer);
        }
        finally
        {
            EndWait(outer);
        }

        var flow = outer ?? (OperationFlow.Current = new OperationFlow(new object()));
        lock (_gate)
        {
            ComputeThreads.ApplyHere();
            _sharing = SharedCores.Watch();
            _operation = wanted;
            _flow = flow;
            _thread = Environment.CurrentManagedThreadId;
            _depth = 1;
            return new Holder(this, begun: outer is null ? flow : null);
        }
    }

    /// <summary>Refuses a wait for a flow that itself waits, over whatever others, for a model which this one holds.</summary>
    private void BeginWait(OperationFlow? flow, string wanted)
    {
        if (flow is null)
        {
            return;
        }

        lock (s_waitGate)
        {
            for (var (lease, steps) = (this, 0); lease is not null && steps <= s_waits.Count; steps++)
            {
                var holder = lease._flow?.Identity;
                if (ReferenceEquals(holder, flow.Identity))
                {
                    throw new PeftException("PeftModelBusy", $"The model '{model}' is busy with {_operation}, which itself waits for a model that this ({wanted}) belongs to: the two would wait for each other for ever.")
                    {
                        Target = model,
                        RecommendedAction = "Let the other command end first, or collect this pipeline's output in a variable before another model is used.",
                    };
                }

                lease = holder is null ? null : s_waits.GetValueOrDefault(holder);
            }

            s_waits[flow.Identity] = this;
        }
    }

    private static void EndWait(OperationFlow? flow)
    {
        if (flow is not null)
        {
            lock (s_waitGate)
            {
                s_waits.Remove(flow.Identity);
            }
        }
    }

    private void Wait(OperationFlow? flow)
    {
        var turn = _turn.WaitAsync(flow?.Cancellation ?? CancellationToken.None);
        try
        {
            if (flow?.OnWaiting is { } onWaiting && Task.WaitAny([turn], s_moment) != 0)
            {
                onWaiting($"Waiting for the model '{model}', which is busy with {_operation}");
                try
                {
                    turn.GetAwaiter().GetResult();
                }
                finally
                {
                    onWaiting(null);
                }
            }

            turn.GetAwaiter().GetResult();
        }
        catch
        {
            // A shell that stops no longer takes what is said. Whoever goes without the model passes its turn on when that comes.
            _ = turn.ContinueWith(_ => _turn.Release(), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
            throw;
        }
    }

    private void Release()
    {
        lock (_gate)
        {
            if (--_depth > 0)
            {
                return;
            }

            _operation = null;
            _flow = null;
            _sharing?.Dispose();
            _sharing = null;
        }

        _turn.Release();
    }

    private sealed class Holder(ModelLease lease, OperationFlow? begun) : IDisposable
    {
        private int _released;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _released, 1) != 0)
            {
                return;
            }

            // A flow that began with this operation ends with it: two threads that are started later are two flows.
            if (begun is not null && ReferenceEquals(OperationFlow.Current, begun))
            {
                OperationFlow.Current = null;
            }

            lease.Release();
        }
    }
}
