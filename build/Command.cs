using System.Diagnostics;
using System.Text;

namespace Peft.Build;

/// <summary>Runs other programs from the top folder.</summary>
internal static class Command
{
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
        using var process = Start(program, arguments, environment, captured: true);
        var output = new StringBuilder();
        void Add(object sender, DataReceivedEventArgs line)
        {
            lock (output)
            {
                output.AppendLine(line.Data);
            }
        }

        process.OutputDataReceived += Add;
        process.ErrorDataReceived += Add;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        process.WaitForExit();
        return (process.ExitCode, output.ToString());
    }

    /// <summary>Whether a program is on the path.</summary>
    public static bool IsOnPath(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator)
            .Any(folder => folder.Length > 0 && File.Exists(Path.Combine(folder, program)));

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
