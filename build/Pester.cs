using System.Text.Json;
using System.Text.Json.Serialization;

namespace Peft.Build;

/// <summary>Runs the Pester tests: the module's own on the newest Pester, the sample, which is a user's, on the one before as well.</summary>
internal static class Pester
{
    private const string Newest = "6.2.0";
    private const string Older = "5.9.1";
    private const int NotToBeHad = 3;

    private static readonly JsonSerializerOptions s_json = new(JsonSerializerOptions.Web) { Converters = { new JsonStringEnumConverter() } };

    /// <summary>Runs all of them.</summary>
    /// <param name="results">The folder for the results.</param>
    /// <param name="powerShell">The PowerShell that runs Pester, or null where there is none.</param>
    /// <returns>A result for each test, a skipped one too.</returns>
    public static IReadOnlyList<TestResult> Run(string results, string? powerShell)
    {
        var (contract, sample) = (Checkout.At("tests", "Pester"), Checkout.At("samples"));
        return [.. Run(results, powerShell, Newest, contract, sample), .. Run(results, powerShell, Older, sample)];
    }

    private static IEnumerable<TestResult> Run(string results, string? powerShell, string version, params string[] folders)
    {
        if (powerShell is null)
        {
            return Skipped(folders, "There is no PowerShell 7.6 here.");
        }

        var file = Path.Combine(results, $"pester-{version}.json");
        var log = Path.ChangeExtension(file, ".log");
        File.Delete(file);
        Console.WriteLine($"Running the Pester tests on Pester {version} ...");
        var (program, arguments) = PowerShell.Invocation(
            powerShell,
            Checkout.At("build", "RunPester.ps1"),
            "-TestPath",
            string.Join(Path.PathSeparator, folders),
            "-ResultPath",
            file,
            "-Version",
            version,
            "-PackagePath",
            Restore(version),
            "-ModulePath",
            Path.Combine(Checkout.Artifacts, "modules"));
        var code = Command.Watch(program, arguments, new Dictionary<string, string> { ["NO_COLOR"] = "1" }, log, static line => line.TrimStart() is ['[', '+' or '-' or '!' or '?', ']', ..]);
        return code switch
        {
            NotToBeHad => Skipped(folders, $"There is no Pester {version} here."),
            _ when File.Exists(file) => JsonSerializer.Deserialize<List<TestResult>>(File.ReadAllText(file), s_json)!
                .Select(result => result with { Name = $"Pester {version}: {result.Name}" }),
            _ => throw new BuildException($"{string.Join('\n', File.ReadLines(log).TakeLast(40))}\nThe Pester run stopped before its end. All it wrote is in {log}."),
        };
    }

    /// <summary>Asks the package feed for Pester.</summary>
    /// <returns>The module's folder in the package cache, whether it is there or not.</returns>
    private static string Restore(string version)
    {
        var project = Checkout.At("build", "pester");
        if (Command.Capture("dotnet", ["restore", project, $"-p:PesterVersion={version}", "--verbosity", "quiet"]).ExitCode != 0)
        {
            Console.WriteLine($"  The package feed has no Pester {version}.");
        }

        var cache = Command.Capture("dotnet", ["msbuild", project, "-getProperty:NuGetPackageRoot"]).Output.Trim();
        return Path.Combine(cache, "pester", version, "tools");
    }

    private static IEnumerable<TestResult> Skipped(IEnumerable<string> folders, string why) => folders
        .SelectMany(folder => Directory.EnumerateFiles(folder, "*.Tests.ps1", SearchOption.AllDirectories))
        .SelectMany(file => File.ReadLines(file)
            .Select(line => line.Trim())
            .Where(line => line.StartsWith("It '", StringComparison.OrdinalIgnoreCase))
            .Select(line => new TestResult($"{Path.GetFileName(file)}: {line.Split('\'')[1]}", TestOutcome.Skipped, why)));
}
