namespace Peft.Adapters.Model;

/// <summary>
/// Who works on models: a program's thread with all it starts, or a PowerShell pipeline. Operations of different flows wait for each other; one that
/// starts from within another of its own flow would wait for ever, and is refused.
/// </summary>
/// <param name="Identity">Tells flows apart, by reference.</param>
/// <param name="OnWaiting">Hears what is waited for, where it takes longer than a moment, and null when the wait is over.</param>
/// <param name="Cancellation">Ends a wait.</param>
public sealed record OperationFlow(object Identity, Action<string?>? OnWaiting = null, CancellationToken Cancellation = default)
{
    private static readonly AsyncLocal<OperationFlow?> s_current = new();

    /// <summary>The flow of this thread and of those that it starts; null until an operation begins.</summary>
    public static OperationFlow? Current
    {
        get => s_current.Value;
        set => s_current.Value = value;
    }
}
