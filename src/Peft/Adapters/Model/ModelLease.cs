using Peft.Engine;

namespace Peft.Adapters.Model;

/// <summary>One operation at a time on a model: the second is refused, it neither waits nor crashes.</summary>
internal sealed class ModelLease(string model)
{
    private readonly Lock _gate = new();
    private string? _operation;
    private int _thread;
    private int _depth;
    private IDisposable? _sharing;

    /// <summary>Takes the model; calls from within the operation, on its thread, go through.</summary>
    /// <exception cref="PeftException"><c>PeftModelBusy</c>.</exception>
    public IDisposable Acquire(string wanted)
    {
        lock (_gate)
        {
            if (_operation is not null && _thread != Environment.CurrentManagedThreadId)
            {
                throw new PeftException("PeftModelBusy", $"The model '{model}' is busy with {_operation}; {wanted} has to wait until that is over.")
                {
                    Target = model,
                    RecommendedAction = "Let the other operation end, or stop it, and try again.",
                };
            }

            if (_depth == 0)
            {
                ComputeThreads.ApplyHere();
                _sharing = SharedCores.Watch();
            }

            _operation ??= wanted;
            _thread = Environment.CurrentManagedThreadId;
            _depth++;
            return new Holder(this);
        }
    }

    private void Release()
    {
        lock (_gate)
        {
            if (--_depth == 0)
            {
                _operation = null;
                _sharing?.Dispose();
                _sharing = null;
            }
        }
    }

    private sealed class Holder(ModelLease lease) : IDisposable
    {
        private int _released;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _released, 1) == 0)
            {
                lease.Release();
            }
        }
    }
}
