using System.Globalization;
using System.Xml.Linq;

namespace Peft.Build;

/// <summary>How many tests passed, failed and were skipped; printed as the closing line of a run.</summary>
internal readonly record struct Counts(int Passed, int Failed, int Skipped)
{
    public static Counts operator +(Counts left, Counts right) =>
        new(left.Passed + right.Passed, left.Failed + right.Failed, left.Skipped + right.Skipped);

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Passed} passed, {Failed} failed, {Skipped} skipped");
}

/// <summary>What a run of xUnit wrote down in a TRX file.</summary>
internal sealed class TestResults
{
    private static readonly XNamespace s_trx = "http://microsoft.com/schemas/VisualStudio/TeamTest/2010";
    private readonly List<(string Name, string Outcome, string Message)> _results = [];

    /// <summary>The counts, of results and not of the file's own summary, which leaves skipped tests out.</summary>
    public Counts Counts => new(
        _results.Count(result => result.Outcome == "Passed"),
        Failures.Count(),
        _results.Count(result => result.Outcome == "NotExecuted"));

    /// <summary>The tests that failed, each with its message on one line.</summary>
    public IEnumerable<(string Name, string Message)> Failures =>
        _results.Where(result => result.Outcome is not ("Passed" or "NotExecuted")).Select(result => (result.Name, result.Message));

    /// <summary>Reads the file; a run that left none has no results.</summary>
    public static TestResults Read(string path)
    {
        var results = new TestResults();
        if (File.Exists(path))
        {
            foreach (var result in XDocument.Load(path).Descendants(s_trx + "UnitTestResult"))
            {
                var message = result.Descendants(s_trx + "Message").FirstOrDefault()?.Value ?? "";
                results._results.Add((
                    result.Attribute("testName")?.Value ?? "",
                    result.Attribute("outcome")?.Value ?? "Error",
                    string.Join(' ', message.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))));
            }
        }

        return results;
    }
}
