using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Peft.Benchmarks.Peer;

/// <summary>
/// The Python peer, where there is one: the interpreter that <c>PEFT_PEER_PYTHON</c> names, or the packed one that lies beside the checkout
/// (unpacked once into artifacts/peer). A benchmark without a peer prints its own figures alone.
/// </summary>
internal sealed class PythonPeer
{
    private readonly string interpreter;
    private readonly string? site;
    private readonly string script;

    private PythonPeer(string interpreter, string? site, string script)
    {
        this.interpreter = interpreter;
        this.site = site;
        this.script = script;
    }

    /// <summary>Finds the peer, or returns null.</summary>
    /// <param name="repository">Root of the checkout.</param>
    public static PythonPeer? Find(string repository)
    {
        var script = Path.Combine(repository, "benchmarks", "Peer", "bench.py");
        if (Environment.GetEnvironmentVariable("PEFT_PEER_PYTHON") is { Length: > 0 } named)
        {
            return new PythonPeer(named, Environment.GetEnvironmentVariable("PEFT_PEER_SITE"), script);
        }

        var archive = Path.Combine(repository, "..", "shared", "peer", "peer-python311.tar.xz");
        if (!File.Exists(archive))
        {
            return null;
        }

        var folder = Path.Combine(repository, "artifacts", "peer");
        var site = Path.Combine(folder, "site");
        if (!Directory.Exists(site))
        {
            Directory.CreateDirectory(folder);
            Console.Error.WriteLine("Unpacking the Python peer into artifacts/peer (once).");
            Run("tar", ["-xJf", archive, "-C", folder], new Dictionary<string, string?>());
        }

        return new PythonPeer("python3.11", site, script);
    }

    /// <summary>Runs one job and returns the line it printed.</summary>
    public JsonNode Run(IReadOnlyList<string> arguments)
    {
        var environment = new Dictionary<string, string?> { ["HF_HUB_OFFLINE"] = "1" };
        List<string> all = [script, .. arguments];
        if (site is { Length: > 0 })
        {
            environment["PYTHONPATH"] = site;
            all.Insert(0, "-S");
        }

        var output = Run(interpreter, all, environment);
        return JsonNode.Parse(output.Split('\n', StringSplitOptions.RemoveEmptyEntries)[^1])!;
    }

    /// <summary>Runs a command and returns its standard output.</summary>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    internal static string Run(string command, IReadOnlyList<string> arguments, IReadOnlyDictionary<string, string?> environment)
    {
        var start = new ProcessStartInfo(command, arguments) { UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        using var process = Process.Start(start)!;
        var errors = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0
            ? output
            : throw new InvalidOperationException($"{command} {string.Join(' ', arguments)} ended with {process.ExitCode}: {errors.Result}");
    }
}
