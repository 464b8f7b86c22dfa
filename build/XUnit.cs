using System.Xml.Linq;

namespace Peft.Build;

/// <summary>Runs the xUnit tests.</summary>
internal static class XUnit
{
    private static readonly XNamespace s_trx = "http://microsoft.com/schemas/VisualStudio/TeamTest/2010";
    private static readonly string[] s_outcomes = ["  Passed ", "  Failed ", "  Skipped "];

    /// <summary>Runs tests of the built assembly, with a line now and then of how far they are.</summary>
    /// <param name="results">The folder for the results.</param>
    /// <param name="filter">Which tests, as <c>dotnet test --filter</c> takes it, or null for all.</param>
    /// <param name="environment">What the tests' environment has beyond ours.</param>
    /// <returns>A result for each test, a skipped one too.</returns>
    public static IReadOnlyList<TestResult> Run(string results, string? filter = null, IReadOnlyDictionary<string, string>? environment = null)
    {
        var file = Path.Combine(results, "xunit.trx");
        File.Delete(file);
        string[] arguments =
        [
            "test", Checkout.At("tests", "Peft.Tests"), "--configuration", "Release", "--no-build", "--nologo",
            "--results-directory", results, "--logger", "trx;LogFileName=xunit.trx", "--logger", "console;verbosity=normal",
            .. filter is null ? Array.Empty<string>() : ["--filter", filter],
        ];
        Console.WriteLine("Running the xUnit tests ...");
        var log = Path.Combine(results, "xunit.log");
        var code = Command.Watch(
            "dotnet",
            arguments,
            new Dictionary<string, string>(environment ?? new Dictionary<string, string>()) { ["DOTNET_CLI_UI_LANGUAGE"] = "en" },
            log,
            static line => s_outcomes.Any(line.StartsWith));
        IReadOnlyList<TestResult> read = File.Exists(file) ? Read(file) : [];
        return code == 0 || read.Any(result => result.Outcome == TestOutcome.Failed)
            ? read
            : throw new BuildException($"{string.Join('\n', File.ReadLines(log).TakeLast(40))}\nThe xUnit run stopped before its end. All it wrote is in {log}.");
    }

    /// <summary>The results of a TRX file, whose own summary leaves skipped tests out.</summary>
    private static List<TestResult> Read(string file) =>
    [
        .. XDocument.Load(file).Descendants(s_trx + "UnitTestResult").Select(result => new TestResult(
            result.Attribute("testName")?.Value ?? "",
            result.Attribute("outcome")?.Value switch
            {
                "Passed" => TestOutcome.Passed,
                "NotExecuted" => TestOutcome.Skipped,
                _ => TestOutcome.Failed,
            },
            OnOneLine(result.Descendants(s_trx + "Message").FirstOrDefault()?.Value ?? ""))),
    ];

    private static string OnOneLine(string text) => string.Join(' ', text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
}
