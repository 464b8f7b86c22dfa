using System.Diagnostics;
using Peft.Build.Gpu;

// GpuCheck FOLDER DEVICE [CHECK...]: FOLDER holds assets, golden and README.md of a checkout. Every check runs in a process of its own, so that one
// that ends its process is one that failed; the last line counts them. Without names all of them run.
const string Alone = "--alone";
var (folder, device) = (args[0], args[1]);
if (args is [_, _, Alone, var name])
{
    return Checks.Run(name, new CheckMachine(folder, device));
}

var failed = 0;
var checks = args.Length > 2 ? args[2..] : [.. Checks.Names];
foreach (var check in checks)
{
    var clock = Stopwatch.StartNew();
    using var process = Process.Start(Environment.ProcessPath!, [folder, device, Alone, check]);
    if (!process.WaitForExit(TimeSpan.FromSeconds(150)))
    {
        process.Kill(entireProcessTree: true);
        process.WaitForExit();
    }

    failed += process.ExitCode == 0 ? 0 : 1;
    Console.WriteLine($"{(process.ExitCode == 0 ? "passed" : "FAILED")} {check} on {device} in {clock.Elapsed.TotalSeconds:F0} s{(process.ExitCode is 0 or 1 ? "" : $" (exit code {process.ExitCode})")}");
}

Console.WriteLine($"{checks.Length - failed} passed, {failed} failed");
return failed == 0 ? 0 : 1;
