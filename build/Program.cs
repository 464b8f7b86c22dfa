using Peft.Build;

const string Usage = """
    usage: bash build.sh TASK        or, in PowerShell, ./build.ps1 -Task TASK
      demo                     train two adapters on the embedded model, switch, merge and save them
      test                     run xUnit and Pester
      build                    compile everything; then Import-Module ./Peft.psd1 works
      bench [NAME...]          measure speed and memory
      golden FOLDER [PATTERN]  run the reference cases under a folder
      faults [SECONDS [SEED]]  run the trials of faults at length: random damage, kills, races
      pack [RUNTIME]           make artifacts/Peft/VERSION; for another system (win-x64, linux-x64, osx-arm64) in artifacts/pack/RUNTIME
      gpu-check                pack what has to work on a GPU for build/gpu-check/run.sh on a machine that has one
      clean                    remove what the other tasks made, but for this program itself
    LIBTORCH=FOLDER builds on the libtorch in a folder: an unpacked zip, or the torch folder of a Python installation.
    TorchEngine=NuGet|SystemLibtorch and TorchBackend=cpu|cuda-windows|cuda-linux in the environment choose the engine.
    """;

var arguments = new Queue<string>(args);
string? powerShell = null;
var engine = Variable("TorchEngine");
var backend = Variable("TorchBackend");
var libtorch = Variable("LIBTORCH");
while (arguments.TryPeek(out var option) && option.StartsWith("--", StringComparison.Ordinal) && arguments.Count > 1)
{
    _ = arguments.Dequeue() switch
    {
        "--powershell" => powerShell = arguments.Dequeue(),
        "--engine" => engine = arguments.Dequeue(),
        "--backend" => backend = arguments.Dequeue(),
        "--libtorch" => libtorch = arguments.Dequeue(),
        _ => arguments.Dequeue(),
    };
}

try
{
    return Run(arguments.TryDequeue(out var task) ? task.ToUpperInvariant() : "", [.. arguments]);
}
catch (BuildException stopped)
{
    Console.Error.WriteLine(stopped.Message);
    return 1;
}

int Run(string task, string[] rest)
{
    switch (task)
    {
        case "DEMO":
            Build();
            return powerShell is null
                ? Command.Run("dotnet", ["run", "--project", Checkout.At("samples", "QuickStart"), "--configuration", "Release", "--no-build"])
                : PowerShell.Run(powerShell, Checkout.At("samples", "QuickStart.ps1"));
        case "TEST":
            Build();
            return Tests.All(powerShell);
        case "BUILD":
            Build();
            return 0;
        case "BENCH":
            Build();
            return Benchmarks.Run(rest);
        case "GOLDEN" when rest.Length is 1 or 2:
            Build();
            return Tests.Golden(rest[0], rest.ElementAtOrDefault(1));
        case "FAULTS" when rest.Length <= 2:
            Build();
            return Tests.Faults(rest.ElementAtOrDefault(0), rest.ElementAtOrDefault(1));
        case "PACK" when rest.Length == 1:
            TorchEngine.Choose(new EngineRequest(engine, null, libtorch));
            Module.Pack(rest[0], backend ?? EngineChoice.Cpu);
            return 0;
        case "PACK" when rest.Length == 0:
            Module.Forget();
            Build();
            Module.Pack();
            return 0;
        case "GPU-CHECK":
            GpuCheck.Pack();
            return 0;
        case "CLEAN":
            Clean.Everything();
            return 0;
        default:
            Console.Error.WriteLine(Usage);
            return 2;
    }
}

void Build()
{
    TorchEngine.Choose(new EngineRequest(engine, backend, libtorch));
    Module.Build();
}

static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
