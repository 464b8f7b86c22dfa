using System.Text.Json.Nodes;

namespace Peft.Benchmarks;

/// <summary>
/// One job of the benchmark. It runs in a process of its own, so that peak memory is the job's, in turns with the same job at the peer.
/// </summary>
/// <param name="Name">What <c>build.sh bench NAME</c> selects, such as <c>train-smollm2-bf16</c>; a prefix selects several.</param>
/// <param name="Unit">Unit of the figure; more is better.</param>
/// <param name="Run">Does the job here and returns the figure.</param>
/// <param name="PeerArguments">Arguments of <c>Peer/bench.py</c> for the same job; null when the peer has none.</param>
/// <param name="PeerKey">Key of the peer's figure in the line it prints.</param>
/// <param name="UnitSize">How many of the run's and the peer's figure make one of <paramref name="Unit"/>.</param>
/// <param name="Repeats">How often the pair is run; the median is told.</param>
internal sealed record Benchmark(
    string Name, string Unit, Func<BenchmarkFigure> Run, IReadOnlyList<string>? PeerArguments, string PeerKey = "tokens_per_second", double UnitSize = 1, int Repeats = 1);

/// <summary>What one run of a job measured.</summary>
/// <param name="Value">In the job's unit.</param>
/// <param name="Share">Of what bounds the job on this machine, measured in the same process: arithmetic a second of the matrix-product rate in the same type, or weights read a second of the memory's rate. Null where it says nothing.</param>
/// <param name="Note">Anything worth telling beside it.</param>
internal sealed record BenchmarkFigure(double Value, double? Share = null, string? Note = null)
{
    /// <summary>Peak resident size of this process, in bytes.</summary>
    public long PeakBytes { get; init; } = PeakResidentBytes();

    /// <summary>The line a child process prints.</summary>
    public string ToJson() => new JsonObject
    {
        ["value"] = Value,
        ["share"] = Share,
        ["note"] = Note,
        ["peak_bytes"] = PeakBytes,
    }.ToJsonString();

    /// <summary>Reads <see cref="ToJson"/>.</summary>
    public static BenchmarkFigure FromJson(JsonNode line) => new(
        (double)line["value"]!, (double?)line["share"], (string?)line["note"])
    {
        PeakBytes = (long)line["peak_bytes"]!,
    };

    private static long PeakResidentBytes()
    {
        const string Status = "/proc/self/status";
        if (File.Exists(Status))
        {
            var line = File.ReadLines(Status).First(static text => text.StartsWith("VmHWM:", StringComparison.Ordinal));
            return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], System.Globalization.CultureInfo.InvariantCulture) * 1024;
        }

        using var process = System.Diagnostics.Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }
}
