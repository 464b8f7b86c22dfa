namespace Peft.Build;

/// <summary>What was skipped for one reason.</summary>
/// <param name="Reason">The id of the product's error, or the reason in words.</param>
/// <param name="Cases">The reference cases, or tests that are about none, each with its tests.</param>
internal sealed record SkipReason(string Reason, IReadOnlyDictionary<string, IReadOnlyList<TestResult>> Cases)
{
    /// <summary>The number of tests.</summary>
    public int Tests => Cases.Values.Sum(tests => tests.Count);

    /// <inheritdoc/>
    public override string ToString() =>
        Cases.Count == Tests ? $"skipped {Tests}: {Reason}" : $"skipped {Cases.Count} (in {Tests} tests): {Reason}";
}

/// <summary>Sorts skipped tests by their reasons.</summary>
internal static class SkippedTests
{
    /// <summary>The reasons, the most frequent first. A case that is skipped for several counts under the one that most of its tests give.</summary>
    public static IReadOnlyList<SkipReason> Group(IEnumerable<TestResult> results)
    {
        var skipped = results.Where(result => result.Outcome == TestOutcome.Skipped).Select(result => (Result: result, Why: Parse(result)));
        var cases = skipped.GroupBy(test => test.Why.Case).Select(tests => (
            Name: tests.Key,
            Reason: tests.GroupBy(test => test.Why.Reason).MaxBy(same => same.Count())!.Key,
            Tests: (IReadOnlyList<TestResult>)[.. tests.Select(test => test.Result)]));
        return
        [
            .. cases.GroupBy(item => item.Reason)
                .Select(same => new SkipReason(same.Key, same.ToDictionary(item => item.Name, item => item.Tests)))
                .OrderByDescending(reason => reason.Cases.Count)
                .ThenBy(reason => reason.Reason, StringComparer.Ordinal),
        ];
    }

    /// <summary>All names, by reason and case.</summary>
    public static IEnumerable<string> List(IReadOnlyList<SkipReason> reasons) => reasons.SelectMany(reason => reason.Cases
        .OrderBy(item => item.Key, StringComparer.Ordinal)
        .SelectMany(item => item.Value.Select(test => $"    {test.Name}: {test.Message}").Prepend("  " + item.Key))
        .Prepend(reason.ToString()));

    /// <summary>A message is <c>CASE: ErrorId: words</c>; the case, which has a slash or an underscore, and the id may be missing.</summary>
    private static (string Case, string Reason) Parse(TestResult test)
    {
        var (word, rest) = FirstWord(test.Message);
        if (!word.AsSpan().ContainsAny('/', '_'))
        {
            (word, rest) = (test.Name, test.Message);
        }

        var (id, _) = FirstWord(rest);
        return (word, id.Length > 0 ? id : rest);
    }

    /// <summary>The word before the first colon and what follows it; an empty word where there is more than one.</summary>
    private static (string Word, string Following) FirstWord(string message)
    {
        var end = message.IndexOf(": ", StringComparison.Ordinal);
        return end < 0 || message.AsSpan(0, end).Contains(' ') ? ("", message) : (message[..end], message[(end + 2)..]);
    }
}
