using System.Diagnostics;

using Peft.Build;
using Peft.Tests.Engine;

namespace Peft.Tests.Build;

/// <summary>NuGet's native library on a system with an older C++ library: what is changed in a copy, and what is refused.</summary>
public sealed class VersionNeedsTests : IDisposable
{
    private const string Marker = "_ZSt21ios_base_library_initv";
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_version_asked_for_because_of_the_marker_alone_becomes_weak_in_the_copy_and_no_other_bit_changes()
    {
        var bytes = Typical(Marker).ToBytes();
        var sentence = VersionNeeds.CopyLoadable(_folder.Write("libA.so", bytes), _folder["copy.so"], OlderSystem);

        Assert.Contains("libA.so asks for CXX_2,", sentence, StringComparison.Ordinal);
        var copy = ElfFile.Read(_folder["copy.so"]);
        Assert.Equal([("C_1", false), ("CXX_1", false), ("CXX_2", true)], copy.Needs.Select(need => (need.Version, need.IsWeak)));
        var changed = File.ReadAllBytes(_folder["copy.so"]).Index().Where(pair => pair.Item != bytes[pair.Index]).ToList();
        Assert.Equal([(copy.Needs[2].FlagsOffset, 2)], changed.Select(pair => (pair.Index, (int)pair.Item)));
        Assert.Equal(bytes, File.ReadAllBytes(_folder["libA.so"]));
    }

    [Fact]
    public void Where_the_system_has_the_version_nothing_is_said_and_the_copy_loads_on_older_ones_all_the_same()
    {
        var sentence = VersionNeeds.CopyLoadable(
            _folder.Write("libA.so", Typical(Marker).ToBytes()), _folder["copy.so"], _ => new HashSet<string> { "C_1", "CXX_1", "CXX_2" });
        Assert.Null(sentence);
        Assert.Equal(["CXX_2"], ElfFile.Read(_folder["copy.so"]).Needs.Where(need => need.IsWeak).Select(need => need.Version));
    }

    [Theory]
    [InlineData(Marker, "_ZSt4realf")]
    [InlineData("_ZSt4realf")]
    [InlineData]
    public void A_missing_version_with_another_use_is_refused_and_no_copy_is_made(params string[] bound)
    {
        var error = Assert.Throws<NotSupportedException>(() => VersionNeeds.CopyLoadable(
            _folder.Write("libA.so", Typical(bound).ToBytes()), _folder["copy.so"], OlderSystem));
        Assert.Contains("libA.so asks for CXX_2, which this system's libcxx.so.6 lacks", error.Message, StringComparison.Ordinal);
        Assert.Contains("TorchEngine=SystemLibtorch", error.Message, StringComparison.Ordinal);
        Assert.Equal(bound.Contains("_ZSt4realf"), error.Message.Contains("_ZSt4realf", StringComparison.Ordinal));
        Assert.Equal(["libA.so"], Directory.EnumerateFiles(_folder.Path).Select(Path.GetFileName));
    }

    [Fact]
    public void Versions_of_libraries_that_are_not_here_and_weak_ones_are_not_judged()
    {
        var bytes = new ElfLibrary().Asks("libtorch.so", "T_1", weak: false, "at_add").Asks("libcxx.so.6", "CXX_9", weak: true, "f").ToBytes();
        Assert.Null(VersionNeeds.CopyLoadable(_folder.Write("libA.so", bytes), _folder["copy.so"], OlderSystem));
        Assert.Equal(bytes, File.ReadAllBytes(_folder["copy.so"]));
    }

    [SkippableFact]
    public void A_hard_link_in_an_output_is_replaced_and_not_written_into()
    {
        Skip.If(OperatingSystem.IsWindows(), "ln");
        var package = _folder.Write("package.so", Typical(Marker).ToBytes());
        var before = File.ReadAllBytes(package);
        Process.Start("ln", [package, _folder["link.so"]]).WaitForExit();
        VersionNeeds.CopyLoadable(package, _folder["link.so"], OlderSystem);
        Assert.NotEqual(before, File.ReadAllBytes(_folder["link.so"]));
        Assert.Equal(before, File.ReadAllBytes(package));
    }

    [Fact]
    public void A_file_that_is_cut_off_or_is_none_is_invalid_data()
    {
        var bytes = Typical(Marker).Defines("A_1").ToBytes();
        for (var length = 0; length < bytes.Length; length++)
        {
            _folder.Write("cut.so", bytes[..length]);
            Assert.Throws<InvalidDataException>(() => ElfFile.Read(_folder["cut.so"]));
        }
    }

    [SkippableFact]
    public void The_versions_that_this_system_has_are_those_its_own_library_defines()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "the C++ library of Linux");
        Assert.Contains("GLIBCXX_3.4", VersionNeeds.OnThisSystem("libstdc++.so.6")!);
        Assert.Contains("GLIBC_2.2.5", VersionNeeds.OnThisSystem("libc.so.6")!);
        Assert.Null(VersionNeeds.OnThisSystem("libof-nobody.so.7"));
    }

    [SkippableFact]
    public void What_runs_here_is_a_copy_that_loads_and_the_package_in_the_cache_is_as_it_came()
    {
        Skip.If(EngineFacts.IsSystemLibtorch || !OperatingSystem.IsLinux(), "NuGet's engine on Linux");
        _ = TorchSharp.torch.ones(1);
        // A system may list a library once for each of its mappings.
        var loaded = Process.GetCurrentProcess().Modules.Cast<ProcessModule>()
            .Where(module => module.ModuleName == "libLibTorchSharp.so").Select(module => module.FileName).Distinct().ToList();
        Assert.Contains(loaded, file => file.StartsWith(AppContext.BaseDirectory, StringComparison.Ordinal));
        Assert.All(loaded, file => Assert.Contains(ElfFile.Read(file).Needs, need => need.IsWeak));

        var cache = Environment.GetEnvironmentVariable("NUGET_PACKAGES")
            ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        var packaged = Directory.EnumerateFiles(Path.Combine(cache, "torchsharp"), "libLibTorchSharp.so", SearchOption.AllDirectories).ToList();
        Assert.NotEmpty(packaged);
        Assert.All(packaged, file => Assert.DoesNotContain(ElfFile.Read(file).Needs, need => need.IsWeak));
    }

    private static ElfLibrary Typical(params string[] bound) => new ElfLibrary()
        .Asks("libc.so.6", "C_1", weak: false, "write").Asks("libcxx.so.6", "CXX_1", weak: false, "throw", "new")
        .Asks("libcxx.so.6", "CXX_2", weak: false, bound);

    private static HashSet<string>? OlderSystem(string library) => library switch
    {
        "libc.so.6" => ["C_1"],
        "libcxx.so.6" => ["CXX_1"],
        _ => null,
    };
}
