using Peft.Build;

namespace Peft.Tests.Build;

public sealed class SkippedTestsTests
{
    [Fact]
    public void ACaseThatSeveralTestsSkipCountsOnceUnderTheReasonMostOfThemGive()
    {
        TestResult[] results =
        [
            new("Tree(path: bird)", TestOutcome.Skipped, "families/bird: ArchitectureNotSupported: The architecture 'Bird' is not supported."),
            new("Save(path: bird)", TestOutcome.Skipped, "families/bird: ArchitectureNotSupported: The architecture 'Bird' is not supported."),
            new("Count(path: bird)", TestOutcome.Skipped, "families/bird: MethodNotSupported: The adapter method 'X' is not supported."),
            new("Tree(path: fish)", TestOutcome.Skipped, "families/fish: ArchitectureNotSupported: The architecture 'Fish' is not supported."),
            new("Row(index: 1)", TestOutcome.Skipped, "two_rows: there is nothing to try."),
            new("Row(index: 2)", TestOutcome.Skipped, "one_row: there is nothing to try."),
            new("Peer", TestOutcome.Skipped, "There is no Python here."),
            new("Other", TestOutcome.Passed, ""),
            new("Wrong", TestOutcome.Failed, "families/bird: no"),
        ];

        Assert.Equal(new Counts(1, 1, 5), Counts.Of(results));
        Assert.Equal(
            ["skipped 2 (in 4 tests): ArchitectureNotSupported", "skipped 2: there is nothing to try.", "skipped 1: There is no Python here."],
            SkippedTests.Group(results).Select(reason => reason.ToString()));
        var names = SkippedTests.List(SkippedTests.Group(results)).ToArray();
        Assert.All(results.Where(result => result.Outcome == TestOutcome.Skipped), result => Assert.Single(names, line => line.Contains($" {result.Name}: ", StringComparison.Ordinal)));
    }
}
