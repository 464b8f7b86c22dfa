using System.Diagnostics;
using Peft.Tests.Golden;

namespace Peft.Tests.Peer;

/// <summary>
/// A Python with PEFT: the interpreter that <c>PEFT_PEER_PYTHON</c> names (with <c>PEFT_PEER_SITE</c> as its only library folder, where given),
/// or the one that the benchmarks unpacked into artifacts/peer. Tests that need it are skipped where there is none.
/// </summary>
internal static class PythonPeer
{
    /// <summary>Runs a script of <c>tests/Peer</c>; skips the test where there is no peer.</summary>
    public static void Run(string script, params string[] arguments)
    {
        var named = Environment.GetEnvironmentVariable("PEFT_PEER_PYTHON");
        var unpacked = Path.Combine(GoldenCases.Repository, "artifacts", "peer", "site");
        var site = string.IsNullOrEmpty(named) ? unpacked : Environment.GetEnvironmentVariable("PEFT_PEER_SITE");
        Skip.If(string.IsNullOrEmpty(named) && !Directory.Exists(unpacked), "no Python peer (PEFT_PEER_PYTHON names one)");

        var start = new ProcessStartInfo(string.IsNullOrEmpty(named) ? "python3.11" : named) { UseShellExecute = false, RedirectStandardError = true, RedirectStandardOutput = true };
        start.Environment["HF_HUB_OFFLINE"] = "1";
        if (!string.IsNullOrEmpty(site))
        {
            start.Environment["PYTHONPATH"] = site;
            start.ArgumentList.Add("-S");
        }

        start.ArgumentList.Add(Path.Combine(GoldenCases.Repository, "tests", "Peer", script));
        foreach (var argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        using var process = Process.Start(start)!;
        var errors = process.StandardError.ReadToEndAsync();
        process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, errors.Result);
    }
}
