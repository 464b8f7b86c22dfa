namespace Peft.Benchmarks;

/// <summary>Every job there is: a new one is a file and a line here.</summary>
internal static class BenchmarkRegistry
{
    /// <summary>All jobs in the order they are run.</summary>
    public static IReadOnlyList<Benchmark> All { get; } =
    [
    ];
}
