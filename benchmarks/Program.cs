using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft;
using Peft.Benchmarks;
using Peft.Engine;
using Spectre.Console;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
EngineSettings.Apply();
if (args is ["--spin"])
{
    // A busy program: it ends when the benchmark ends it, and by itself after five minutes.
    for (var clock = System.Diagnostics.Stopwatch.StartNew(); clock.Elapsed < TimeSpan.FromMinutes(5);)
    {
    }

    return 0;
}

if (args is ["--rate", var type])
{
    Console.WriteLine(MatrixProductRate.Measure(Enum.Parse<TorchSharp.torch.ScalarType>(type)));
    return 0;
}

if (args is ["--reading"])
{
    Console.WriteLine(MemoryReadRate.Measure());
    return 0;
}

if (args is ["--engine"])
{
    Console.WriteLine(EngineDescription.Current);
    return 0;
}

if (args is ["--job", var single])
{
    Console.WriteLine(BenchmarkRegistry.All.Concat(BenchmarkRegistry.Long).First(job => job.Name == single).Run().ToJson());
    return 0;
}

// The benchmarks built on another engine, whose figures stand beside ours.
string? other = null;
if (args is ["--other", var file, ..])
{
    other = file;
    args = args[2..];
}

// A whole name selects that job alone, the beginning of names all that begin so.
var known = args.Length == 0 ? BenchmarkRegistry.All : [.. BenchmarkRegistry.All, .. BenchmarkRegistry.Long];
var chosen = known.Where(job => args.Length == 0 || args.Any(name => known.Any(other => other.Name == name)
    ? job.Name == name
    : job.Name.StartsWith(name, StringComparison.Ordinal))).ToArray();
if (chosen.Length == 0)
{
    Console.Error.WriteLine($"No benchmark is called '{string.Join(' ', args)}'. There are: {string.Join(", ", known.Select(job => job.Name))}.");
    return 2;
}

var repository = RepositoryRoot.Folder;
var peer = PythonPeer.Find();

// A variable for reproducible sums on unlike machines. It would measure OpenBLAS on an older processor's instructions beside a peer that
// has its own library of matrix products and uses all that this processor has.
const string OldKernels = "OPENBLAS_CORETYPE";
if (Environment.GetEnvironmentVariable(OldKernels) is { Length: > 0 } kernels)
{
    Console.WriteLine($"{OldKernels}={kernels} is set here and left out for all jobs: OpenBLAS takes the kernels of this processor.");
    Environment.SetEnvironmentVariable(OldKernels, null);
}

// In a process of its own: this one was told of the variable that the jobs are not.
var engine = RunSelf("--engine").Trim();
var otherEngine = other is null ? null : RunBuilt(other, "--engine").Trim();
Console.WriteLine(engine);
if (otherEngine is not null)
{
    Console.WriteLine($"Beside it, as 'other': {otherEngine}");
}

var rates = new Dictionary<string, double>
{
    ["float32"] = RateOf(TorchSharp.torch.ScalarType.Float32),
    ["bfloat16"] = RateOf(TorchSharp.torch.ScalarType.BFloat16),
    ["memory"] = (double)LastLine(RunSelf("--reading")),
};
Console.WriteLine($"Memory here: {rates["memory"] / 1e9:F0} GB/s are read; 'share' is of this for generation, of matrix products for training.");
Console.WriteLine($"Matrix products here: {rates["float32"] / 1e9:F0} GFLOP/s in float32, {rates["bfloat16"] / 1e9:F0} in bfloat16.");
Console.WriteLine(peer is null
    ? "No Python peer found (PEFT_PEER_PYTHON names one): our own figures alone."
    : "Each job runs in a process of its own, in turns with the Python peer; the ratio is ours to the peer's.");
var table = new Table().Border(TableBorder.Simple);
table.AddColumns(["job", "ours", "peer", "ratio", "peak GB", "peer GB", "ratio", "share", .. other is null ? Array.Empty<string>() : ["other", "ratio", "peak GB"]]);
table.Columns[0].NoWrap = true;
foreach (var column in table.Columns.Skip(1))
{
    column.Alignment = Justify.Right;
}

var report = Path.Combine(repository, "artifacts", "bench.json");
Directory.CreateDirectory(Path.GetDirectoryName(report)!);
var results = new JsonArray();
var failed = false;
foreach (var job in chosen)
{
    Console.Error.WriteLine($"Running {job.Name} …");
    BenchmarkFigure ours;
    JsonNode? theirs;
    BenchmarkFigure? others;
    try
    {
        (ours, theirs, others) = RunInTurns(job, peer, other);
    }
    catch (InvalidOperationException error)
    {
        // A job that ends in an error doesn't take the others' figures with it.
        Console.Error.WriteLine($"{job.Name}: {error.Message.Split('\n')[0]}");
        failed = true;
        continue;
    }

    AddRow(table, results, job, ours, theirs, others, rates, engine);
    if (otherEngine is not null)
    {
        results[^1]!["other_engine"] = otherEngine;
    }

    File.WriteAllText(report, results.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
}

AnsiConsole.Profile.Width = Math.Max(AnsiConsole.Profile.Width, 140);
AnsiConsole.Write(table);
foreach (var result in results.Where(static result => result!["note"] is not null))
{
    Console.WriteLine($"{result!["name"]}: {result["note"]}");
}

Console.WriteLine("Written to artifacts/bench.json.");
return failed ? 1 : 0;

static (BenchmarkFigure Ours, JsonNode? Theirs, BenchmarkFigure? Other) RunInTurns(Benchmark job, PythonPeer? peer, string? other)
{
    var ours = new List<BenchmarkFigure>();
    var others = new List<BenchmarkFigure>();
    var theirs = new List<JsonNode>();
    for (var i = 0; i < job.Repeats; i++)
    {
        ours.Add(BenchmarkFigure.FromJson(LastLine(RunSelf("--job", job.Name))));
        if (other is not null)
        {
            others.Add(BenchmarkFigure.FromJson(LastLine(RunBuilt(other, "--job", job.Name))));
        }

        if (peer is not null && job.PeerArguments is not null)
        {
            theirs.Add(LastLine(peer.Run(Path.Combine(RepositoryRoot.Folder, "benchmarks", "Peer", "bench.py"), job.PeerArguments)));
        }
    }

    return (
        ours.OrderBy(figure => figure.Value).ElementAt(ours.Count / 2),
        theirs.OrderBy(line => (double)line[job.PeerKey]!).ElementAtOrDefault(theirs.Count / 2),
        others.OrderBy(figure => figure.Value).ElementAtOrDefault(others.Count / 2));
}

static double RateOf(TorchSharp.torch.ScalarType type) => (double)LastLine(RunSelf("--rate", $"{type}"));

static string RunSelf(params string[] arguments) => RunBuilt(typeof(Benchmark).Assembly.Location, arguments);

static string RunBuilt(string program, params string[] arguments) => PythonPeer.RunCommand("dotnet", [program, .. arguments]);

static JsonNode LastLine(string output) => JsonNode.Parse(output.Split('\n', StringSplitOptions.RemoveEmptyEntries)[^1])!;

static void AddRow(
    Table table, JsonArray results, Benchmark job, BenchmarkFigure ours, JsonNode? theirs, BenchmarkFigure? other, Dictionary<string, double> rates, string engine)
{
    var ourValue = ours.Value / job.UnitSize;
    var theirValue = (double?)theirs?[job.PeerKey] / job.UnitSize;
    var theirPeak = (double?)theirs?["peak_bytes"];
    var ratio = ourValue / theirValue;
    var memory = ours.PeakBytes / theirPeak;
    string[] row =
    [
        $"{job.Name} ({job.Unit})", $"{ourValue:N1}", theirValue is null ? "" : $"{theirValue:N1}", ratio is null ? "" : $"{ratio:F2}",
        $"{ours.PeakBytes / 1e9:F2}", theirPeak is null ? "" : $"{theirPeak / 1e9:F2}", memory is null ? "" : $"{memory:F2}",
        ours.Share is null ? "" : $"{ours.Share:P0}",
    ];
    string[] beside = other is null
        ? []
        : [$"{other.Value / job.UnitSize:N1}", theirValue is null ? "" : $"{other.Value / job.UnitSize / theirValue:F2}", $"{other.PeakBytes / 1e9:F2}"];
    table.AddRow([.. row, .. beside]);
    results.Add(new JsonObject
    {
        ["name"] = job.Name,
        ["engine"] = engine,
        ["ours"] = ourValue,
        ["peer"] = theirValue,
        ["ratio"] = ratio,
        ["unit"] = job.Unit,
        ["ours_peak_bytes"] = ours.PeakBytes,
        ["other"] = other?.Value / job.UnitSize,
        ["other_peak_bytes"] = other?.PeakBytes,
        ["peer_peak_bytes"] = theirPeak,
        ["share"] = ours.Share,
        ["matrix_product_float32"] = rates["float32"],
        ["matrix_product_bfloat16"] = rates["bfloat16"],
        ["memory_read"] = rates["memory"],
        ["note"] = ours.Note,
    });
}
