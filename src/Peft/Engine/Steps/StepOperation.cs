namespace Peft.Engine.Steps;

/// <summary>One of the operations that a token's pass through a model's blocks is made of: what it reads and writes lies in the same place for every token.</summary>
internal abstract unsafe class StepOperation : IDisposable
{
    /// <summary>In how many parts the work can be cut.</summary>
    public abstract long Parts { get; }

    /// <summary>Parts that are worth a thread of their own.</summary>
    public virtual long Grain => 1;

    /// <summary>
    /// Whether each thread does all of the work for itself, where waiting for the one that does it would take as long: all of them write the same, and no part
    /// of the output is ever anything else on the way.
    /// </summary>
    public virtual bool IsRepeated => false;

    /// <summary>Memory that each thread needs for itself.</summary>
    public virtual int ScratchFloats => 0;

    /// <summary>Whether it starts work elsewhere, on a GPU, where operations run in the order in which one thread starts them. It may throw.</summary>
    public virtual bool IsLaunched => false;

    /// <summary>Where weights lie that some parts read one after another, and how many bytes they are; nothing where there are none.</summary>
    /// <param name="from">The first part.</param>
    /// <param name="to">The part after the last.</param>
    public virtual (nint Start, long Bytes) Weights(long from, long to) => default;

    /// <summary>Looks up what differs from token to token; by one thread, before the pass.</summary>
    public virtual void Prepare()
    {
    }

    /// <summary>Does some parts. It must not throw.</summary>
    /// <param name="from">The first part.</param>
    /// <param name="to">The part after the last.</param>
    /// <param name="scratch">Memory of the thread's own, aligned to 64 bytes.</param>
    public abstract void Run(long from, long to, float* scratch);

    /// <summary>Runs all of an operation that <see cref="IsLaunched"/>.</summary>
    public void RunAlone() => Run(0, Parts, null);

    /// <inheritdoc/>
    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees memory of the operation's own.</summary>
    protected virtual void Free()
    {
    }
}

/// <summary>Operations that don't wait for one another, as one.</summary>
/// <param name="operations">They read what none of them writes.</param>
internal sealed unsafe class JoinedOperation(IReadOnlyList<StepOperation> operations) : StepOperation
{
    private readonly StepOperation[] _operations = [.. operations];

    /// <inheritdoc/>
    public override long Parts { get; } = operations.Sum(static operation => operation.Parts);

    /// <inheritdoc/>
    public override long Grain { get; } = operations.Max(static operation => operation.Grain);

    /// <inheritdoc/>
    public override int ScratchFloats { get; } = operations.Max(static operation => operation.ScratchFloats);

    /// <inheritdoc/>
    public override (nint Start, long Bytes) Weights(long from, long to)
    {
        foreach (var operation in _operations)
        {
            if (from < operation.Parts)
            {
                return operation.Weights(from, Math.Min(to, operation.Parts));
            }

            (from, to) = (from - operation.Parts, to - operation.Parts);
        }

        return default;
    }

    /// <inheritdoc/>
    public override void Run(long from, long to, float* scratch)
    {
        long start = 0;
        for (var i = 0; i < _operations.Length; i++)
        {
            var operation = _operations[i];
            var (first, last) = (Math.Max(from, start) - start, Math.Min(to, start + operation.Parts) - start);
            start += operation.Parts;
            if (first < last)
            {
                if (to > start)
                {
                    _ = WeightsAhead.Of(_operations[i + 1], 0, to - start);
                }

                operation.Run(first, last, scratch);
            }
        }
    }

    /// <inheritdoc/>
    protected override void Free()
    {
        foreach (var operation in _operations)
        {
            operation.Dispose();
        }
    }
}
