using System.ComponentModel;
using System.Diagnostics;

namespace Peft;

/// <summary>
/// The Python peer, where there is one: the interpreter that <c>PEFT_PEER_PYTHON</c> names (with <c>PEFT_PEER_SITE</c> as its only library
/// folder, where given), or the packed one that lies beside the checkout, unpacked once into artifacts/peer. Nothing needs it: a benchmark
/// without a peer prints its own figures alone, and a test that compares with it is skipped. One file, compiled into the tests and the benchmarks.
/// </summary>
internal sealed class PythonPeer
{
    private readonly string _interpreter;
    private readonly string? _site;

    private PythonPeer(string interpreter, string? site)
    {
        _interpreter = interpreter;
        _site = site;
    }

    /// <summary>Finds the peer, or returns null.</summary>
    public static PythonPeer? Find()
    {
        if (Environment.GetEnvironmentVariable("PEFT_PEER_PYTHON") is { Length: > 0 } named)
        {
            return new PythonPeer(named, Environment.GetEnvironmentVariable("PEFT_PEER_SITE"));
        }

        var archive = Path.Combine(RepositoryRoot.Folder, "..", "shared", "peer", "peer-python311.tar.xz");
        return File.Exists(archive) && Unpack(archive) is { } unpacked && new PythonPeer("python3.11", unpacked) is var packed && packed.Imports() ? packed : null;
    }

    /// <summary>Runs a Python script and returns what it printed.</summary>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public string Run(string script, params IReadOnlyList<string> arguments) => RunPython([script, .. arguments]);

    /// <summary>Runs a command and returns its standard output.</summary>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public static string RunCommand(string command, IReadOnlyList<string> arguments, IReadOnlyDictionary<string, string?>? environment = null)
    {
        var start = new ProcessStartInfo(command, arguments) { UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var (name, value) in environment ?? new Dictionary<string, string?>())
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

    private string RunPython(IReadOnlyList<string> arguments)
    {
        var environment = new Dictionary<string, string?> { ["HF_HUB_OFFLINE"] = "1" };
        List<string> all = [.. arguments];
        if (_site is { Length: > 0 })
        {
            environment["PYTHONPATH"] = _site;
            all.Insert(0, "-S");
        }

        return RunCommand(_interpreter, all, environment);
    }

    /// <summary>Whether the packages load here.</summary>
    private bool Imports()
    {
        try
        {
            RunPython(["-c", "import torch, transformers, peft"]);
            return true;
        }
        catch (Exception error) when (error is Win32Exception or InvalidOperationException)
        {
            Console.Error.WriteLine($"The packed Python peer doesn't run here: {error.Message}");
            return false;
        }
    }

    /// <summary>Unpacks beside and renames, so that what was cut off is not taken for the whole. Null where that fails, such as on a full disk.</summary>
    private static string? Unpack(string archive)
    {
        var folder = Path.Combine(RepositoryRoot.Folder, "artifacts", "peer");
        if (!Directory.Exists(folder))
        {
            var partial = folder + ".partial";
            try
            {
                Console.Error.WriteLine("Unpacking the Python peer into artifacts/peer (once).");
                Directory.CreateDirectory(partial);
                RunCommand("tar", ["-xJf", archive, "-C", partial]);
                Directory.Move(partial, folder);
            }
            catch (Exception error) when (error is IOException or Win32Exception or InvalidOperationException)
            {
                Console.Error.WriteLine($"  not possible: {error.Message}");
                if (Directory.Exists(partial))
                {
                    Directory.Delete(partial, recursive: true);
                }

                return null;
            }
        }

        return Path.Combine(folder, "site");
    }
}
