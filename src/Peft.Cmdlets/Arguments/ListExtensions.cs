namespace Peft.Cmdlets.Arguments;

/// <summary>What the library says in lists of sentences is shown one by one.</summary>
internal static class ListExtensions
{
    /// <summary>Does something with each entry in order.</summary>
    public static void ForEach<T>(this IReadOnlyList<T> entries, Action<T> action)
    {
        foreach (var entry in entries)
        {
            action(entry);
        }
    }
}
