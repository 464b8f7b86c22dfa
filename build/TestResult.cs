using System.Globalization;

namespace Peft.Build;

/// <summary>How a test ended.</summary>
internal enum TestOutcome
{
    /// <summary>It ran and held.</summary>
    Passed,

    /// <summary>It ran and did not hold.</summary>
    Failed,

    /// <summary>It did not run, for the reason in its message.</summary>
    Skipped,
}

/// <summary>What came of one test of xUnit or Pester.</summary>
/// <param name="Name">Its full name.</param>
/// <param name="Outcome">How it ended.</param>
/// <param name="Message">Why it failed or was skipped, on one line; empty where it passed.</param>
internal sealed record TestResult(string Name, TestOutcome Outcome, string Message);

/// <summary>How many tests passed, failed and were skipped; printed as the closing line of a run.</summary>
/// <remarks>What is skipped counts once however many tests it has: a reference case, or a test that is about none.</remarks>
internal readonly record struct Counts(int Passed, int Failed, int Skipped)
{
    /// <summary>The counts of some results.</summary>
    public static Counts Of(IReadOnlyCollection<TestResult> results) => new(
        results.Count(result => result.Outcome == TestOutcome.Passed),
        results.Count(result => result.Outcome == TestOutcome.Failed),
        SkippedTests.Group(results).Sum(reason => reason.Cases.Count));

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Passed} passed, {Failed} failed, {Skipped} skipped");
}
