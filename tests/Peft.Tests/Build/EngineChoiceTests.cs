using System.IO.Compression;

using Peft.Build;
using Peft.Tests.Engine;

namespace Peft.Tests.Build;

/// <summary>Which engine a machine gets, decided by what restores and runs there.</summary>
[Collection(nameof(BuildCollection))]
public sealed class EngineChoiceTests : IDisposable
{
    private static readonly EngineRequest s_nothing = new(null, null, null);
    private readonly TemporaryFolder _folder = new();
    private readonly List<string> _said = [];

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void NuGets_engine_on_the_CPU_is_the_default_and_the_other_takes_over_where_it_does_not_run()
    {
        Assert.Equal(("NuGet", "cpu"), EngineChoice.Decide(s_nothing, isWindowsWithNvidia: false, backend => backend == "cpu", _said.Add));
        Assert.Equal(("SystemLibtorch", "cpu"), EngineChoice.Decide(s_nothing, isWindowsWithNvidia: false, _ => false, _said.Add));
        Assert.Empty(_said);
    }

    [Fact]
    public void What_is_asked_for_is_taken_and_a_folder_with_a_libtorch_asks_for_the_engine_that_uses_it()
    {
        static bool Never(string backend) => throw new InvalidOperationException($"{backend} was tried");
        Assert.Equal(("SystemLibtorch", "cpu"), EngineChoice.Decide(s_nothing with { Libtorch = "/opt/libtorch" }, isWindowsWithNvidia: true, Never, _said.Add));
        Assert.Equal(("SystemLibtorch", "cpu"), EngineChoice.Decide(s_nothing with { Engine = "SystemLibtorch" }, isWindowsWithNvidia: true, Never, _said.Add));
        Assert.Equal(("NuGet", "cuda-linux"), EngineChoice.Decide(new("NuGet", "cuda-linux", null), isWindowsWithNvidia: false, Never, _said.Add));
        Assert.Equal(("NuGet", "cpu"), EngineChoice.Decide(new("NuGet", "cpu", null), isWindowsWithNvidia: true, Never, _said.Add));
    }

    /// <summary>The feed's package is large and runs on Windows alone; this one has its name and brings the CPU's libtorch.</summary>
    [SkippableFact]
    public void Windows_with_NVIDIAs_driver_computes_on_CUDA_where_the_feed_has_its_package_and_the_size_is_said_first()
    {
        var libtorch = CachedLibtorch();
        WriteStub($"""<dependency id="{libtorch.Id}" version="{libtorch.Version}" />""");
        Assert.Equal(("NuGet", "cuda-windows"), EngineChoice.Decide(s_nothing, isWindowsWithNvidia: true, Runs, _said.Add));
        var sentence = Assert.Single(_said);
        Assert.Contains("TorchSharp-cuda-windows is about 3 GB", sentence, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Without_that_package_or_where_it_does_not_load_it_computes_on_the_CPU_and_says_so()
    {
        CachedLibtorch();
        Assert.Equal(("NuGet", "cpu"), EngineChoice.Decide(s_nothing, isWindowsWithNvidia: true, backend => backend == "cpu" || Runs(backend), _said.Add));
        Assert.Equal("TorchSharp-cuda-windows can't be had or doesn't run here, so Peft computes on the CPU.", _said[^1]);

        WriteStub("");
        Assert.Equal(("NuGet", "cpu"), EngineChoice.Decide(s_nothing, isWindowsWithNvidia: true, backend => backend == "cpu" || Runs(backend), _said.Add));
    }

    /// <summary>The real probe, in a copy of what it is built from, with a feed of its own and the packages that are here already.</summary>
    private bool Runs(string backend)
    {
        var checkout = _folder["checkout"];
        foreach (var file in (string[])
        [
            "Directory.Build.props", "Directory.Build.targets", "Directory.Packages.props", "build/Torch.props", "build/Torch.targets", "build/probe/Probe.csproj",
            "build/probe/Program.cs", .. Directory.EnumerateFiles(Checkout.At("build", "NativeLibraries"), "*.cs*").Select(path => Path.GetRelativePath(Checkout.Root, path)),
        ])
        {
            var copy = Path.Combine(checkout, file);
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(Checkout.At(file), copy, overwrite: true);
        }

        Directory.CreateDirectory(_folder["feed"]);
        return TorchProbe.WhyNotNuGet(checkout, new Dictionary<string, string>
        {
            ["TorchEngine"] = "NuGet",
            ["TorchBackend"] = backend,
            ["RunAnalyzers"] = "false",
            ["RestoreSources"] = _folder["feed"],
            ["NUGET_PACKAGES"] = _folder["packages"],
            ["RestoreFallbackFolders"] = Cache,
        }) is null;
    }

    private void WriteStub(string dependency)
    {
        Directory.CreateDirectory(_folder["feed"]);
        using var package = ZipFile.Open(Path.Combine(_folder["feed"], "TorchSharp-cuda-windows.0.107.0.nupkg"), ZipArchiveMode.Update);
        using var writer = new StreamWriter(package.CreateEntry("TorchSharp-cuda-windows.nuspec").Open());
        writer.Write($"""
            <package xmlns="http://schemas.microsoft.com/packaging/2013/05/nuspec.xsd"><metadata>
            <id>TorchSharp-cuda-windows</id><version>0.107.0</version><authors>nobody</authors><description>A stand-in.</description>
            <dependencies><group targetFramework="net8.0">{dependency}</group></dependencies></metadata></package>
            """);
    }

    private static string Cache => Environment.GetEnvironmentVariable("NUGET_PACKAGES")
        ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");

    private static (string Id, string Version) CachedLibtorch()
    {
        var id = OperatingSystem.IsWindows() ? "libtorch-cpu-win-x64" : OperatingSystem.IsMacOS() ? "libtorch-cpu-osx-arm64" : "libtorch-cpu-linux-x64";
        Skip.If(EngineFacts.IsSystemLibtorch || !Directory.Exists(Path.Combine(Cache, id)), "NuGet's engine isn't here");
        return (id, Path.GetFileName(Directory.EnumerateDirectories(Path.Combine(Cache, id)).Max()!));
    }
}
