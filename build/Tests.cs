using System.Globalization;
using System.Text.Json;

namespace Peft.Build;

/// <summary>Runs xUnit and Pester and counts what came of it.</summary>
internal static class Tests
{
    private const int NoPester = 3;
    private static readonly string s_results = Path.Combine(Checkout.Artifacts, "TestResults");

    /// <summary>All of xUnit and Pester; prints both results and, last, the counts over both.</summary>
    /// <param name="powerShell">The PowerShell that runs Pester, or null where there is none.</param>
    /// <returns>The exit code: 0 if something passed and nothing failed.</returns>
    public static int All(string? powerShell) => Close(XUnit(quiet: false, filter: null, environment: null).Counts + Pester(powerShell));

    /// <summary>The golden cases under a folder; a line for each that failed and, last, the counts.</summary>
    /// <param name="folder">The folder, whatever mix of domains it holds.</param>
    /// <param name="pattern">A wildcard for the cases' paths, or null for all.</param>
    /// <returns>The exit code: 0 if something passed and nothing failed.</returns>
    public static int Golden(string folder, string? pattern)
    {
        if (!Directory.Exists(folder))
        {
            throw new BuildException($"There is no folder {folder} with golden cases.");
        }

        var results = XUnit(quiet: true, "Category=Golden", new Dictionary<string, string>
        {
            ["PEFT_GOLDEN"] = Path.GetFullPath(folder),
            ["PEFT_GOLDEN_PATTERN"] = pattern ?? "",
            ["PEFT_GOLDEN_STRICT"] = "1",
        });
        return Close(results);
    }

    /// <summary>The trials of faults (xUnit's trait Category=Faults) at length; a line for each that failed and, last, the counts.</summary>
    /// <param name="seconds">The time for all of them together, or null for twenty minutes.</param>
    /// <param name="seed">The seed of the first trial, or null for a new one.</param>
    /// <returns>The exit code: 0 if something passed and nothing failed.</returns>
    public static int Faults(string? seconds, string? seed)
    {
        seconds ??= "1200";
        seed ??= Random.Shared.Next(1, 1_000_000_000).ToString(CultureInfo.InvariantCulture);
        Console.WriteLine($"Trials of faults for {seconds} seconds from seed {seed} on.");
        return Close(XUnit(quiet: true, "Category=Faults", new Dictionary<string, string>
        {
            ["PEFT_FAULT_SECONDS"] = seconds,
            ["PEFT_FAULT_SEED"] = seed,
        }));
    }

    private static int Close(TestResults results)
    {
        foreach (var (name, message) in results.Failures)
        {
            Console.WriteLine($"FAILED {name}: {message}");
        }

        return Close(results.Counts);
    }

    private static int Close(Counts counts)
    {
        if (counts is { Passed: 0, Failed: 0 })
        {
            Console.WriteLine("No test ran.");
        }

        Console.WriteLine(counts);
        return counts is { Passed: > 0, Failed: 0 } ? 0 : 1;
    }

    private static TestResults XUnit(bool quiet, string? filter, IReadOnlyDictionary<string, string>? environment)
    {
        var file = Path.Combine(s_results, "xunit.trx");
        Directory.CreateDirectory(s_results);
        File.Delete(file);
        string[] arguments =
        [
            "test", Checkout.At("tests", "Peft.Tests"), "--configuration", "Release", "--no-build", "--nologo",
            "--results-directory", s_results, "--logger", "trx;LogFileName=xunit.trx", "--logger", "console;verbosity=minimal",
            .. filter is null ? Array.Empty<string>() : ["--filter", filter],
        ];
        Console.WriteLine("Running the xUnit tests ...");
        var (code, output) = quiet ? Command.Capture("dotnet", arguments, environment) : (Command.Run("dotnet", arguments, environment), "");
        var results = TestResults.Read(file);
        if (code != 0 && results.Counts.Failed == 0)
        {
            Console.WriteLine(output);
            throw new BuildException("The xUnit run stopped before its end.");
        }

        return results;
    }

    private static Counts Pester(string? powerShell)
    {
        var tests = Checkout.At("tests", "Pester");
        if (powerShell is null)
        {
            return SkippedPester(tests, "no PowerShell 7.6");
        }

        var file = Path.Combine(s_results, "pester.json");
        File.Delete(file);
        Console.WriteLine("Running the Pester tests ...");
        var code = PowerShell.Run(
            powerShell, Checkout.At("build", "RunPester.ps1"), "-TestPath", tests, "-ResultPath", file, "-ModulePath", Path.Combine(Checkout.Artifacts, "modules"));
        if (code == NoPester)
        {
            return SkippedPester(tests, "no Pester 5");
        }

        return File.Exists(file)
            ? JsonSerializer.Deserialize<Counts>(File.ReadAllText(file), JsonSerializerOptions.Web)
            : throw new BuildException($"The Pester run stopped before its end, with exit code {code}.");
    }

    private static Counts SkippedPester(string tests, string why)
    {
        var count = Directory.Exists(tests)
            ? Directory.EnumerateFiles(tests, "*.Tests.ps1", SearchOption.AllDirectories).Sum(file => File.ReadLines(file).Count(IsTest))
            : 0;
        Console.WriteLine($"There is {why} here, so the {count} Pester tests are skipped.");
        return new Counts(0, 0, count);
    }

    private static bool IsTest(string line) =>
        line.AsSpan().TrimStart() is ['I' or 'i', 't' or 'T', ' ', ..] words && words[3..].TrimStart() is ['\'' or '"', ..];
}

/// <summary>The PowerShell that build.ps1 runs in.</summary>
internal static class PowerShell
{
    /// <summary>Runs a script.</summary>
    /// <param name="powerShell">A pwsh, or the pwsh.dll of the dotnet tool.</param>
    /// <param name="script">The script's file.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <returns>Its exit code.</returns>
    public static int Run(string powerShell, string script, params string[] arguments)
    {
        string[] all = ["-NoProfile", "-NonInteractive", "-File", script, .. arguments];
        return powerShell.EndsWith(".dll", StringComparison.OrdinalIgnoreCase)
            ? Command.Run("dotnet", [powerShell, .. all])
            : Command.Run(powerShell, all);
    }
}
