using Peft.Engine;

namespace Peft.Adapters.Model;

/// <summary>One operation at a time on a model: the second is refused, it neither waits nor crashes.</summary>
internal sealed class ModelLease(string model)
{
    private readonly Lock gate = new();
    private string? operation;
    private int thread;
    private int depth;
    private IDisposable? sharing;

    /// <summary>Takes the model; calls from within the operation, on its thread, go through.</summary>
    /// <exception cref="PeftException"><c>PeftModelBusy</c>.</exception>
    public IDisposable Acquire(string wanted)
    {
        lock (gate)
        {
            if (operation is not null && thread != Environment.CurrentManagedThreadId)
            {
                throw new PeftException("PeftModelBusy", $"The model '{model}' is busy with {operation}; {wanted} has to wait until that is over.")
                {
                    Target = model,
                    RecommendedAction = "Let the other operation end, or stop it, and try again.",
                };
            }

            if (depth == 0)
            {
                ComputeThreads.ApplyHere();
                sharing = SharedCores.Watch();
            }

            operation ??= wanted;
            thread = Environment.CurrentManagedThreadId;
            depth++;
            return new Holder(this);
        }
    }

    private void Release()
    {
        lock (gate)
        {
            if (--depth == 0)
            {
                operation = null;
                sharing?.Dispose();
                sharing = null;
            }
        }
    }

    private sealed class Holder(ModelLease lease) : IDisposable
    {
        private int released;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref released, 1) == 0)
            {
                lease.Release();
            }
        }
    }
}
