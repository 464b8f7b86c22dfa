using System.Diagnostics;
using System.Text;

namespace Peft.Build;

/// <summary>Runs other programs from the top folder.</summary>
internal static class Command
{
    private static readonly TimeSpan s_heartbeat = TimeSpan.FromSeconds(30);

    /// <summary>Runs a program that writes to this console.</summary>
    /// <param name="program">A program on the path, or its file.</param>
    /// <param name="arguments">Its arguments, unquoted.</param>
    /// <param name="environment">What its environment has beyond ours.</param>
    /// <returns>Its exit code.</returns>
    public static int Run(string program, IEnumerable<string> arguments, IReadOnlyDictionary<string, string>? environment = null)
    {
        using var process = Start(program, arguments, environment, captured: false);
        process.WaitForExit();
        return process.ExitCode;
    }

    /// <summary>Runs a program that writes to this console, and stops the task if it fails.</summary>
    public static void Require(string failure, string program, params string[] arguments)
    {
        if (Run(program, arguments) != 0)
        {
            throw new BuildException(failure);
        }
    }

    /// <summary>Runs a program in silence.</summary>
    /// <returns>Its exit code and everything it wrote.</returns>
    public static (int ExitCode, string Output) Capture(
        string program, IEnumerable<string> arguments, IReadOnlyDictionary<string, string>? environment = null)
    {
        var output = new StringBuilder();
        var code = Listen(program, arguments, environment, line => output.AppendLine(line));
        return (code, output.ToString());
    }

    /// <summary>Runs tests in silence, but for a line every half minute that says how many have finished.</summary>
    /// <param name="program">A program on the path, or its file.</param>
    /// <param name="arguments">Its arguments, unquoted.</param>
    /// <param name="environment">What its environment has beyond ours.</param>
    /// <param name="log">The file that gets everything it writes.</param>
    /// <param name="finished">What a line of a finished test looks like.</param>
    /// <returns>Its exit code.</returns>
    public static int Watch(
        string program, IEnumerable<string> arguments, IReadOnlyDictionary<string, string>? environment, string log, Func<string, bool> finished)
    {
        using var writer = new StreamWriter(log) { AutoFlush = true };
        var clock = Stopwatch.StartNew();
        var count = 0;
        using var heart = new Timer(
            _ => Console.WriteLine($"  {clock.Elapsed:m\\:ss}  {count} tests have finished"),
            state: null,
            s_heartbeat,
            s_heartbeat);
        return Listen(program, arguments, environment, line =>
        {
            writer.WriteLine(line);
            count += finished(line) ? 1 : 0;
        });
    }

    /// <summary>Whether a program is on the path.</summary>
    public static bool IsOnPath(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator)
            .Any(folder => folder.Length > 0 && File.Exists(Path.Combine(folder, program)));

    /// <summary>Hands on every line, of output and errors, one at a time.</summary>
    private static int Listen(
        string program, IEnumerable<string> arguments, IReadOnlyDictionary<string, string>? environment, Action<string> hear)
    {
        using var process = Start(program, arguments, environment, captured: true);
        var gate = new Lock();
        void Add(object sender, DataReceivedEventArgs received)
        {
            if (received.Data is { } line)
            {
                lock (gate)
                {
                    hear(line);
                }
            }
        }

        process.OutputDataReceived += Add;
        process.ErrorDataReceived += Add;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        process.WaitForExit();
        return process.ExitCode;
    }

    private static Process Start(
        string program, IEnumerable<string> arguments, IReadOnlyDictionary<string, string>? environment, bool captured)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = Checkout.Root,
            RedirectStandardOutput = captured,
            RedirectStandardError = captured,
        };
        foreach (var (name, value) in environment ?? new Dictionary<string, string>())
        {
            start.Environment[name] = value;
        }

        return Process.Start(start) ?? throw new BuildException($"{program} could not be started.");
    }
}
