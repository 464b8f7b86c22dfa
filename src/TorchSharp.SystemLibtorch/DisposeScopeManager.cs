namespace TorchSharp;

/// <summary>The current thread's dispose scopes and what it has counted.</summary>
public class DisposeScopeManager
{
    [ThreadStatic]
    private static DisposeScopeManager? s_current;

    /// <summary>What this thread has created, attached, detached and disposed.</summary>
    public static ThreadDisposeScopeStatistics Statistics => Current.Counts;

    internal static DisposeScopeManager Current => s_current ??= new DisposeScopeManager();

    internal ThreadDisposeScopeStatistics Counts { get; } = new();

    /// <summary>The innermost scope, into which new tensors go.</summary>
    internal DisposeScope? Innermost { get; private set; }

    internal DisposeScope NewScope() => Innermost = new DisposeScope(this, Innermost);

    internal DisposeScope? Register(torch.Tensor tensor)
    {
        if (Innermost is null)
        {
            Counts.TensorStatistics.CreatedOutsideScopeCount++;
        }
        else
        {
            Counts.TensorStatistics.CreatedInScopeCount++;
            Innermost.Own(tensor);
        }

        return Innermost;
    }

    internal void CountDisposed(bool inScope)
    {
        if (inScope)
        {
            Counts.TensorStatistics.DisposedInScopeCount++;
        }
        else
        {
            Counts.TensorStatistics.DisposedOutsideScopeCount++;
        }
    }

    /// <summary>Takes a scope out of the chain, wherever in it the scope is: scopes need not end in the order in which they began.</summary>
    internal void Remove(DisposeScope scope)
    {
        if (ReferenceEquals(Innermost, scope))
        {
            Innermost = scope.Outer;
            return;
        }

        for (var inner = Innermost; inner is not null; inner = inner.Outer)
        {
            if (ReferenceEquals(inner.Outer, scope))
            {
                inner.Outer = scope.Outer;
                return;
            }
        }
    }
}
