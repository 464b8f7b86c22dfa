using System.Diagnostics;
using Peft.Files;

namespace Peft.Tests.Faults;

/// <summary>A process of its own that does one of a few jobs and may be killed on the way.</summary>
internal static class ChildProcess
{
    private static readonly Dictionary<string, Action<string[]>> s_jobs = new()
    {
        ["save"] = static arguments => SaveFaultTests.Save(arguments[0], arguments[1], int.Parse(arguments[2], System.Globalization.CultureInfo.InvariantCulture)),
        ["structure"] = static arguments => Models.StructureTests.Measure(arguments[0], int.Parse(arguments[1], System.Globalization.CultureInfo.InvariantCulture), arguments[2], arguments[3]),
        ["train"] = static arguments => CheckpointFaultTests.TrainInChild(arguments[0], int.Parse(arguments[1], System.Globalization.CultureInfo.InvariantCulture)),
        ["train and exit"] = static arguments => CheckpointFaultTests.TrainAndEnd(arguments[0], terminates: false),
        ["train and terminate"] = static arguments => CheckpointFaultTests.TrainAndEnd(arguments[0], terminates: true),
    };

    /// <summary>Where the child begins; the tests' own runner doesn't come here.</summary>
    public static void Main(string[] arguments) => s_jobs[arguments[0]](arguments[1..]);

    /// <summary>Runs a job.</summary>
    /// <param name="job">Its name and arguments.</param>
    /// <param name="killAtStep">Number of the disk's step before which the child kills itself, from 1; 0 for none.</param>
    /// <param name="killAfter">When it is killed from outside; null for never.</param>
    /// <param name="preload">A library to load before any other; null for none.</param>
    /// <returns>Whether it came to its end, and what it said about errors.</returns>
    public static (bool Ended, string Errors) Run(string[] job, int killAtStep = 0, TimeSpan? killAfter = null, string? preload = null)
    {
        var host = Environment.ProcessPath!;
        Skip.IfNot(Path.GetFileNameWithoutExtension(host) == "dotnet", "The tests don't run under the dotnet host, so no second process can be started the same way.");
        var start = new ProcessStartInfo(host, ["exec", typeof(ChildProcess).Assembly.Location, .. job]) { UseShellExecute = false, RedirectStandardError = true };
        start.Environment[KillVariable] = killAtStep.ToString(System.Globalization.CultureInfo.InvariantCulture);
        if (preload is not null)
        {
            start.Environment["LD_PRELOAD"] = preload;
        }

        using var child = Process.Start(start)!;
        var errors = child.StandardError.ReadToEndAsync();
        if (killAfter is { } time && !child.WaitForExit(time))
        {
            child.Kill();
        }

        child.WaitForExit();
        return (child.ExitCode == 0, errors.Result);
    }

    private const string KillVariable = "PEFT_TEST_KILL_AT_STEP";

    /// <summary>In the child: counts the disk's steps and dies before the one that was asked for.</summary>
    public static void DieAtStep()
    {
        var left = int.Parse(Environment.GetEnvironmentVariable(KillVariable) ?? "0", System.Globalization.CultureInfo.InvariantCulture);
        Disk.Observer = (_, _) =>
        {
            if (--left == 0)
            {
                Process.GetCurrentProcess().Kill();
                Thread.Sleep(Timeout.Infinite);
            }
        };
    }
}
