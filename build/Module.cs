namespace Peft.Build;

/// <summary>Puts the module together: for the checkout in <c>bin</c>, for others in <c>artifacts/Peft</c>.</summary>
internal static class Module
{
    /// <summary>Files beside the manifest that belong to the module where they exist.</summary>
    private static readonly string[] s_files = ["Peft.psd1", "LICENSE", "README.md", "CHANGELOG.md"];

    /// <summary>Builds every project; the module's own lays itself out in <c>bin</c>, so that <c>Import-Module ./Peft.psd1</c> works.</summary>
    public static void Build()
    {
        Console.WriteLine("Building ...");
        var (code, output) = Command.Capture(
            "dotnet", ["build", Checkout.At("PeftModule.sln"), "--configuration", "Release", "--nologo", "-v", "quiet", "-tl:off"]);
        if (code != 0)
        {
            var errors = output.Split('\n').Where(line => line.Contains("error ", StringComparison.Ordinal)).Distinct().Take(30).ToArray();
            throw new BuildException("The build failed.\n" + (errors.Length == 0 ? output : string.Join('\n', errors)));
        }

        SayWhatWasChanged();
    }

    /// <summary>Copies the built module to <c>artifacts/Peft/VERSION</c>.</summary>
    /// <remarks>Call <see cref="Forget"/> before the build, so that nothing of an earlier one comes along.</remarks>
    public static void Pack()
    {
        var (code, version) = Command.Capture("dotnet", ["msbuild", Checkout.At("src", "Peft.Cmdlets"), "-getProperty:Version"]);
        if (code != 0)
        {
            throw new BuildException($"The module's version could not be read: {version}");
        }

        var target = Path.Combine(Checkout.Artifacts, "Peft", version.Trim());
        if (Directory.Exists(target))
        {
            Directory.Delete(target, recursive: true);
        }

        Copy(Checkout.At("bin"), Path.Combine(target, "bin"));
        foreach (var file in s_files.Select(name => Checkout.At(name)).Where(File.Exists))
        {
            File.Copy(file, Path.Combine(target, Path.GetFileName(file)));
        }

        // Before the module is loaded Get-Help looks for topics beside the manifest alone.
        Copy(Checkout.At("bin", "lib", "en-US"), Path.Combine(target, "en-US"));

        Console.WriteLine($"The module is in {target}");
    }

    /// <summary>Empties <c>bin</c>.</summary>
    public static void Forget()
    {
        if (Directory.Exists(Checkout.At("bin")))
        {
            Directory.Delete(Checkout.At("bin"), recursive: true);
        }
    }

    /// <summary>One line where the module's native library is a copy that asks weakly for what this system lacks (Torch.targets).</summary>
    private static void SayWhatWasChanged()
    {
        var library = Checkout.At("bin", "lib", "runtimes", "linux-x64", "native", "libLibTorchSharp.so");
        if (OperatingSystem.IsLinux() && File.Exists(library) && VersionNeeds.WhyCopied(library, VersionNeeds.OnThisSystem) is { } sentence)
        {
            Console.WriteLine(sentence);
        }
    }

    private static void Copy(string source, string target)
    {
        foreach (var file in Directory.EnumerateFiles(source, "*", SearchOption.AllDirectories))
        {
            var copy = Path.Combine(target, Path.GetRelativePath(source, file));
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(file, copy);
        }
    }
}
