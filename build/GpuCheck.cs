namespace Peft.Build;

/// <summary>Packs the checks of <c>build/gpu-check</c> for a machine with a GPU and without .NET.</summary>
internal static class GpuCheck
{
    private const long LimitBytes = 23_000_000;

    /// <summary>Makes <c>artifacts/gpu-check.tar.xz</c>, which <c>build/gpu-check/run.sh</c> takes from there.</summary>
    public static void Pack()
    {
        var folder = Path.Combine(Checkout.Artifacts, "pack", "gpu-check");
        var publish = Path.Combine(folder, "publish");
        var archive = Path.Combine(Checkout.Artifacts, "gpu-check.tar.xz");
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }

        Console.WriteLine("Publishing the GPU's checks with .NET itself ...");
        var (code, output) = Command.Capture("dotnet",
        [
            "publish", Checkout.At("build", "gpu-check"), "--configuration", "Release", "--runtime", "linux-x64", "--self-contained", "--nologo", "-v", "quiet", "-tl:off",
            "--output", publish, "-p:Apart=gpu-check", "-p:TorchEngine=SystemLibtorch", "-p:WithoutShim=true", "-p:UseMicrosoftMLTokenizers=false",
        ]);
        if (code != 0)
        {
            throw new BuildException($"The checks could not be published.\n{output}");
        }

        foreach (var file in Directory.EnumerateFiles(publish, "*", SearchOption.AllDirectories).Where(IsSpare))
        {
            File.Delete(file);
        }

        Command.Require("tar could not pack the checks.", "tar", "-cJf", archive, "-C", publish, ".");
        var size = new FileInfo(archive).Length;
        Console.WriteLine($"{archive}: {size / 1e6:F1} MB. On the machine with the GPU: bash build/gpu-check/run.sh; here, as a dry run: bash build/gpu-check/run.sh cpu");
        if (size > LimitBytes)
        {
            throw new BuildException($"That is more than the {LimitBytes / 1e6:F0} MB that may be taken along.");
        }
    }

    /// <summary>What nothing in the checks loads: comments, symbols, translations, and the debugger's half of the runtime.</summary>
    private static bool IsSpare(string path)
    {
        var name = Path.GetFileName(path);
        return name.EndsWith(".xml", StringComparison.Ordinal) || name.EndsWith(".pdb", StringComparison.Ordinal)
            || name.EndsWith(".resources.dll", StringComparison.Ordinal)
            || name is "libmscordaccore.so" or "libmscordbi.so" or "createdump" or "libcoreclrtraceptprovider.so" or "libclrgc.so" or "libclrgcexp.so" or "System.Private.DataContractSerialization.dll"
                or "Microsoft.VisualBasic.Core.dll" or "Microsoft.CodeAnalysis.CSharp.dll" or "Microsoft.CodeAnalysis.dll";
    }
}
