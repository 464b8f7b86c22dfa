namespace Peft.Build;

/// <summary>Runs the benchmark on the chosen engine, and with <c>--both</c> on the other one as well, in one table.</summary>
internal static class Benchmarks
{
    private const string Both = "--both";

    /// <summary>The exit code.</summary>
    /// <param name="arguments">Names of jobs, and <c>--both</c>.</param>
    public static int Run(IReadOnlyList<string> arguments)
    {
        string[] run = ["run", "--project", Checkout.At("benchmarks"), "--configuration", "Release", "--no-build", "--"];
        var jobs = arguments.Where(static argument => argument != Both);
        return Command.Run("dotnet", arguments.Contains(Both) ? [.. run, "--other", BuildOther(), .. jobs] : [.. run, .. jobs]);
    }

    /// <summary>Builds the benchmarks on the engine that wasn't chosen, in a folder of its own.</summary>
    private static string BuildOther()
    {
        var (code, chosen) = Command.Capture("dotnet", ["msbuild", Checkout.At("benchmarks"), "-getProperty:TorchEngine"]);
        var other = code == 0 && chosen.Trim() == "NuGet" ? "SystemLibtorch" : "NuGet";
        var folder = Path.Combine(Checkout.Artifacts, "bench", other);
        Console.WriteLine($"Building the benchmarks on {other} as well ...");
        Command.Require(
            $"The benchmarks can't be built on {other} here.",
            "dotnet", ["build", Checkout.At("benchmarks"), "--configuration", "Release", "--nologo", "-v", "quiet", $"-p:TorchEngine={other}", "--artifacts-path", folder]);
        return Path.Combine(folder, "bin", "Benchmarks", "release", "Benchmarks.dll");
    }
}
