namespace Peft.Build;

/// <summary>Puts the module together: for the checkout in <c>bin</c>, for others in <c>artifacts/Peft</c>.</summary>
internal static class Module
{
    /// <summary>Files beside the manifest that belong to the module where they exist.</summary>
    private static readonly string[] s_files = ["Peft.psd1", "LICENSE", "README.md", "CHANGELOG.md"];

    /// <summary>The systems for which the feed has TorchSharp.</summary>
    public static readonly string[] Runtimes = ["linux-x64", "win-x64", "osx-arm64"];

    private static string ThisRuntime => OperatingSystem.IsWindows() ? "win-x64" : OperatingSystem.IsMacOS() ? "osx-arm64" : "linux-x64";

    /// <summary>Builds every project; the module's own lays itself out in <c>bin</c>, so that <c>Import-Module ./Peft.psd1</c> works.</summary>
    public static void Build()
    {
        Console.WriteLine("Building ...");
        Build(Checkout.At("PeftModule.sln"));
        SayWhatWasChanged();
    }

    private static void Build(string project, params string[] properties)
    {
        var (code, output) = Command.Capture("dotnet", ["build", project, "--configuration", "Release", "--nologo", "-v", "quiet", "-tl:off", .. properties]);
        if (code != 0)
        {
            var errors = output.Split('\n').Where(line => line.Contains("error ", StringComparison.Ordinal)).Distinct().Take(30).ToArray();
            throw new BuildException("The build failed.\n" + (errors.Length == 0 ? output : string.Join('\n', errors)));
        }
    }

    /// <summary>Copies the built module to <c>artifacts/Peft/VERSION</c>.</summary>
    /// <remarks>Call <see cref="Forget"/> before the build, so that nothing of an earlier one comes along.</remarks>
    public static void Pack() => CopyModule(Checkout.At("bin"), Path.Combine(Checkout.Artifacts, "Peft"), ThisRuntime);

    /// <summary>Builds the module for another system and lays it out in <c>artifacts/pack/RUNTIME/Peft/VERSION</c>.</summary>
    /// <param name="runtime">One of <see cref="Runtimes"/>.</param>
    /// <param name="backend">What NuGet's engine computes on there.</param>
    /// <returns>The folder.</returns>
    public static string Pack(string runtime, string backend)
    {
        if (!Runtimes.Contains(runtime))
        {
            throw new BuildException($"There is no runtime {runtime} to pack for: it is {string.Join(", ", Runtimes)}.");
        }

        var folder = Path.Combine(Checkout.Artifacts, "pack", runtime);
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }

        Console.WriteLine($"Building for {runtime} ({backend}) ...");
        Build(Checkout.At("src", "Peft.Cmdlets"), $"-p:Apart={runtime}", $"-p:TorchRuntime={runtime}", "-p:TorchEngine=NuGet", $"-p:TorchBackend={backend}");
        return CopyModule(Path.Combine(folder, "module"), Path.Combine(folder, "Peft"), runtime);
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

    private static string CopyModule(string built, string folder, string runtime)
    {
        var (code, version) = Command.Capture("dotnet", ["msbuild", Checkout.At("src", "Peft.Cmdlets"), "-getProperty:Version"]);
        if (code != 0)
        {
            throw new BuildException($"The module's version could not be read: {version}");
        }

        var target = Path.Combine(folder, version.Trim());
        if (Directory.Exists(target))
        {
            Directory.Delete(target, recursive: true);
        }

        // What packages bring for other systems stays behind.
        var family = runtime[..runtime.IndexOf('-', StringComparison.Ordinal)];
        string[] runtimes = [runtime, family, .. family == "win" ? Array.Empty<string>() : ["unix"]];
        var native = Path.Combine(built, "lib", "runtimes") + Path.DirectorySeparatorChar;
        Copy(built, Path.Combine(target, "bin"), file =>
            !file.StartsWith(native, StringComparison.Ordinal) || runtimes.Contains(file[native.Length..].Split(Path.DirectorySeparatorChar)[0]));
        foreach (var file in s_files.Select(name => Checkout.At(name)).Where(File.Exists))
        {
            File.Copy(file, Path.Combine(target, Path.GetFileName(file)));
        }

        // Before the module is loaded Get-Help looks for topics beside the manifest alone.
        Copy(Path.Combine(built, "lib", "en-US"), Path.Combine(target, "en-US"), _ => true);
        Console.WriteLine($"The module is in {target}");
        return target;
    }

    private static void Copy(string source, string target, Func<string, bool> belongs)
    {
        foreach (var file in Directory.EnumerateFiles(source, "*", SearchOption.AllDirectories).Where(belongs))
        {
            var copy = Path.Combine(target, Path.GetRelativePath(source, file));
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(file, copy);
        }
    }
}
