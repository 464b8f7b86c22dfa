using System.Globalization;

namespace Peft.Build;

/// <summary>The tasks that run tests. Each prints what failed, a line for each reason of skipping and, last, the counts.</summary>
internal static class Tests
{
    private static readonly string s_results = Path.Combine(Checkout.Artifacts, "TestResults");

    /// <summary>All of xUnit and Pester, counted together.</summary>
    /// <param name="powerShell">The PowerShell that runs Pester, or null where there is none.</param>
    /// <returns>The exit code: 0 if something passed and nothing failed.</returns>
    public static int All(string? powerShell) => Report([.. XUnit.Run(Results()), .. Pester.Run(s_results, powerShell)]);

    /// <summary>The golden cases under a folder.</summary>
    /// <param name="folder">The folder, whatever mix of domains it holds.</param>
    /// <param name="pattern">A wildcard for the cases' paths, or null for all.</param>
    /// <returns>The exit code: 0 if something passed and nothing failed.</returns>
    public static int Golden(string folder, string? pattern)
    {
        if (!Directory.Exists(folder))
        {
            throw new BuildException($"There is no folder {folder} with golden cases.");
        }

        return Report(XUnit.Run(Results(), "Category=Golden", new Dictionary<string, string>
        {
            ["PEFT_GOLDEN"] = Path.GetFullPath(folder),
            ["PEFT_GOLDEN_PATTERN"] = pattern ?? "",
            ["PEFT_GOLDEN_STRICT"] = "1",
        }));
    }

    /// <summary>The trials of faults (xUnit's trait Category=Faults) at length.</summary>
    /// <param name="seconds">The time for all of them together, or null for twenty minutes.</param>
    /// <param name="seed">The seed of the first trial, or null for a new one.</param>
    /// <returns>The exit code: 0 if something passed and nothing failed.</returns>
    public static int Faults(string? seconds, string? seed)
    {
        seconds ??= "1200";
        seed ??= Random.Shared.Next(1, 1_000_000_000).ToString(CultureInfo.InvariantCulture);
        Console.WriteLine($"Trials of faults for {seconds} seconds from seed {seed} on.");
        return Report(XUnit.Run(Results(), "Category=Faults", new Dictionary<string, string>
        {
            ["PEFT_FAULT_SECONDS"] = seconds,
            ["PEFT_FAULT_SEED"] = seed,
        }));
    }

    private static string Results() => Directory.CreateDirectory(s_results).FullName;

    private static int Report(IReadOnlyList<TestResult> results)
    {
        foreach (var failure in results.Where(result => result.Outcome == TestOutcome.Failed))
        {
            Console.WriteLine($"FAILED {failure.Name}: {failure.Message}");
        }

        var reasons = SkippedTests.Group(results);
        foreach (var reason in reasons)
        {
            Console.WriteLine(reason);
        }

        if (reasons.Count > 0)
        {
            var list = Path.Combine(s_results, "skipped.txt");
            File.WriteAllLines(list, SkippedTests.List(reasons));
            Console.WriteLine($"The names of what was skipped are in {Path.GetRelativePath(Checkout.Root, list)}.");
        }

        var counts = Counts.Of(results);
        if (counts is { Passed: 0, Failed: 0 })
        {
            Console.WriteLine("No test ran.");
        }

        Console.WriteLine(counts);
        return counts is { Passed: > 0, Failed: 0 } ? 0 : 1;
    }
}
