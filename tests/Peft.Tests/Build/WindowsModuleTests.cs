using Peft.Build;
using Peft.Loader;

namespace Peft.Tests.Build;

/// <summary>The module as it is packed for Windows, on whatever system that is done: everything that its libraries ask for is there.</summary>
[Collection(nameof(BuildCollection))]
public sealed class WindowsModuleTests
{
    /// <summary>What every Windows 10 and 11 has in its system folder.</summary>
    private static readonly HashSet<string> s_windows = new(StringComparer.OrdinalIgnoreCase)
    {
        "ADVAPI32.dll", "d3d12.dll", "D3DCOMPILER_47.dll", "dbghelp.dll", "FONTSUB.dll", "imagehlp.dll", "IPHLPAPI.dll", "KERNEL32.dll", "ole32.dll", "PSAPI.dll", "USER32.dll",
        "USERENV.dll", "WINTRUST.dll", "WS2_32.dll",
    };

    [SkippableFact]
    public void Every_import_is_packed_or_part_of_Windows_but_for_the_runtime_that_the_module_asks_for()
    {
        var module = Pack();
        var native = Path.Combine(module, "bin", "lib", "runtimes", "win-x64", "native");
        var libraries = Directory.EnumerateFiles(native, "*.dll").ToList();
        Assert.Contains(libraries, path => Path.GetFileName(path) == "LibTorchSharp.dll");
        Assert.Contains(libraries, path => Path.GetFileName(path) == "torch_cpu.dll");

        var packed = libraries.Select(path => Path.GetFileName(path)).ToHashSet(StringComparer.OrdinalIgnoreCase);
        var outside = libraries.SelectMany(path => PeFile.Imports(path) is var (needed, delayed) ? needed.Concat(delayed) : [])
            .Where(name => !packed.Contains(name) && !s_windows.Contains(name) && !name.StartsWith("api-ms-win-", StringComparison.OrdinalIgnoreCase))
            .Select(name => name.ToUpperInvariant()).Distinct().Order(StringComparer.Ordinal);
        Assert.Equal(VisualCppRuntime.Libraries.Select(name => name.ToUpperInvariant()), outside);
    }

    [SkippableFact]
    public void Nothing_of_another_system_is_packed_and_all_that_the_manifest_names_is()
    {
        var module = Pack();
        Assert.Equal(["win-x64"], Directory.EnumerateDirectories(Path.Combine(module, "bin", "lib", "runtimes")).Select(Path.GetFileName));
        Assert.DoesNotContain(Directory.EnumerateFiles(module, "*", SearchOption.AllDirectories), path => path.EndsWith(".so", StringComparison.Ordinal));
        foreach (var file in new[] { "Peft.psd1", "bin/Peft.psm1", "bin/Peft.Loader.dll", "bin/Peft.Format.ps1xml", "bin/Peft.Types.ps1xml", "bin/lib/Peft.Cmdlets.dll", "bin/lib/TorchSharp.dll" })
        {
            Assert.True(File.Exists(Path.Combine(module, file)), file);
        }
    }

    [Fact]
    public void A_missing_runtime_is_named_with_what_to_do()
    {
        VisualCppRuntime.Require(_ => true);
        var error = Assert.Throws<DllNotFoundException>(() => VisualCppRuntime.Require(name => name != "VCRUNTIME140_1.dll"));
        Assert.Contains("Visual C++ runtime, of which VCRUNTIME140_1.dll can't be loaded", error.Message, StringComparison.Ordinal);
        Assert.Contains("vc_redist.x64.exe", error.Message, StringComparison.Ordinal);
    }

    private static string Pack()
    {
        try
        {
            return s_packed.Value;
        }
        catch (BuildException error) when (error.Message.Contains("NU1101", StringComparison.Ordinal))
        {
            Skip.If(true, "the feed lacks libtorch-cpu-win-x64");
            throw;
        }
    }

    private static readonly Lazy<string> s_packed = new(() => Peft.Build.Module.Pack("win-x64", "cpu"));
}
