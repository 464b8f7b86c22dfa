using System.Runtime.InteropServices;
using System.Xml.Linq;

namespace Peft.Build;

/// <summary>
/// Chooses what Peft is built on by asking the feed, once, and keeps the choice in the git-ignored <c>TorchEngine.props</c>,
/// which every project imports: an IDE builds the same.
/// </summary>
internal sealed class TorchEngine
{
    private const string NuGet = "NuGet";
    private const string SystemLibtorch = "SystemLibtorch";
    private static readonly string[] s_debianPackages = ["libtorch-dev", "libopenblas0-openmp", "cmake", "g++"];
    private static readonly string s_file = Checkout.At("TorchEngine.props");

    private readonly SortedDictionary<string, string> _properties = [];

    private string Name => _properties["TorchEngine"];

    private string Backend => _properties["TorchBackend"];

    /// <summary>Finds or makes the choice, prints it, and installs what the chosen engine needs.</summary>
    /// <param name="forcedName">NuGet or SystemLibtorch, or null to ask the feed where nothing is written down.</param>
    /// <param name="forcedBackend">cpu, cuda-windows or cuda-linux, or null for what is written down, else cpu.</param>
    public static void Choose(string? forcedName, string? forcedBackend)
    {
        if (forcedName is not (null or NuGet or SystemLibtorch))
        {
            throw new BuildException($"There is no Torch engine {forcedName}: it is {NuGet} or {SystemLibtorch}.");
        }

        var engine = new TorchEngine();
        if (!engine.Read())
        {
            engine.Probe(forcedName, forcedBackend ?? "cpu");
            engine.Write();
            Console.WriteLine($"{engine} now written to TorchEngine.props.");
        }
        else if ((forcedName ?? engine.Name) != engine.Name || (forcedBackend ?? engine.Backend) != engine.Backend)
        {
            engine._properties["TorchEngine"] = forcedName ?? engine.Name;
            engine._properties["TorchBackend"] = forcedBackend ?? engine.Backend;
            engine.Write();
            Console.WriteLine($"{engine} changed as asked in TorchEngine.props.");
        }
        else
        {
            Console.WriteLine($"{engine} as TorchEngine.props says.");
        }

        if (engine.Name == SystemLibtorch)
        {
            InstallDebianPackages();
        }
    }

    /// <inheritdoc/>
    public override string ToString() =>
        $"Torch engine: {Name}{(Name == NuGet ? $" ({Backend})" : "")}; "
        + $"Microsoft.ML.Tokenizers: {Word("UseMicrosoftMLTokenizers")}; PowerShell engine for xUnit: {Word("UsePowerShellEngine")};";

    private string Word(string property) => _properties[property] == "true" ? "yes" : "no";

    private bool Read()
    {
        if (!File.Exists(s_file))
        {
            return false;
        }

        foreach (var property in XDocument.Load(s_file).Descendants("PropertyGroup").Elements())
        {
            _properties[property.Name.LocalName] = property.Value;
        }

        return _properties.Keys.Count(key => key is "TorchEngine" or "TorchBackend" or "UseMicrosoftMLTokenizers" or "UsePowerShellEngine") == 4;
    }

    private void Write() => File.WriteAllText(
        s_file,
        new XElement(
            "Project",
            new XComment(" Written by build.sh and build.ps1 after asking the feed; their task clean forgets it. "),
            new XElement(
                "PropertyGroup",
                _properties.Select(property =>
                    new XElement(property.Key, new XAttribute("Condition", $"'$({property.Key})' == ''"), property.Value)))) + Environment.NewLine);

    private void Probe(string? forcedName, string backend)
    {
        _properties["TorchEngine"] = NuGet;
        _properties["TorchBackend"] = backend;
        _properties["UseMicrosoftMLTokenizers"] = "false";
        _properties["UsePowerShellEngine"] = "false";
        _properties["TorchEngine"] = forcedName ?? (RunsTorchSharp() ? NuGet : SystemLibtorch);
        _properties["UseMicrosoftMLTokenizers"] = "true";
        _properties["UseMicrosoftMLTokenizers"] = Restores("Microsoft.ML.Tokenizers", "src", "Peft", "Peft.csproj") ? "true" : "false";
        _properties["UsePowerShellEngine"] = "true";
        _properties["UsePowerShellEngine"] =
            Restores("System.Management.Automation", "tests", "Peft.Tests", "Peft.Tests.csproj") ? "true" : "false";
    }

    /// <summary>Whether a sum computed with the feed's TorchSharp is right: the feed may lack it, and its libtorch may need a newer system.</summary>
    private bool RunsTorchSharp()
    {
        if (OperatingSystem.IsLinux() && RuntimeInformation.OSArchitecture != Architecture.X64)
        {
            Console.WriteLine("NuGet's libtorch for Linux is for x64 only.");
            return false;
        }

        return Succeeds(
            $"Asking the feed for TorchSharp and its libtorch ({Backend}), and trying them ...",
            "run", "--project", Checkout.At("build", "probe"), "--configuration", "Release", "--verbosity", "quiet");
    }

    /// <summary>Whether a project restores with the properties as they stand. The project is its own probe: no list of packages is kept twice.</summary>
    private bool Restores(string what, params string[] project) => Succeeds($"Asking the feed for {what} ...", "restore", Checkout.At(project));

    private bool Succeeds(string what, params string[] arguments)
    {
        Console.WriteLine(what);
        var (code, output) = Command.Capture("dotnet", arguments, _properties);
        if (code != 0)
        {
            var lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
            var reason = lines.FirstOrDefault(line => line.Contains("error ", StringComparison.Ordinal)) ?? lines.LastOrDefault();
            Console.WriteLine($"  not to be had here: {reason}");
        }

        return code == 0;
    }

    private static void InstallDebianPackages()
    {
        if (!OperatingSystem.IsLinux() || !Command.IsOnPath("dpkg-query"))
        {
            throw new BuildException(
                $"{SystemLibtorch} builds on Debian's libtorch. On other systems use NuGet's engine (TorchEngine={NuGet}) with a feed that has TorchSharp.");
        }

        var installed = Command.Capture("dpkg-query", ["-W", "-f", "${Package} ${db:Status-Status}\n", .. s_debianPackages]).Output
            .Split('\n').Where(line => line.EndsWith(" installed", StringComparison.Ordinal)).Select(line => line.Split(' ')[0]).ToHashSet();
        var missing = s_debianPackages.Where(package => !installed.Contains(package)).ToArray();
        if (missing.Length == 0)
        {
            return;
        }

        var root = Environment.UserName == "root";
        if (!root && !Command.IsOnPath("sudo"))
        {
            throw new BuildException($"Debian packages are missing and there is no sudo. As root: apt-get install {string.Join(' ', missing)}");
        }

        Console.WriteLine($"Installing Debian packages: {string.Join(' ', missing)}");
        var (program, prefix) = root ? ("apt-get", Array.Empty<string>()) : ("sudo", ["apt-get"]);
        Command.Require("apt-get update failed.", program, [.. prefix, "update", "-qq"]);
        Command.Require(
            "apt-get install failed.", program, [.. prefix, "install", "-y", "-qq", "--no-install-recommends", .. missing]);
    }
}
