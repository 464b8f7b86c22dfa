using System.Xml.Linq;

namespace Peft.Build;

/// <summary>
/// Chooses what Peft is built on by asking the feed, once, and keeps the choice in the git-ignored <c>TorchEngine.props</c>,
/// which every project imports: an IDE builds the same.
/// </summary>
internal sealed class TorchEngine
{
    private const string Compiler = "g++";
    private static readonly string[] s_libtorch = ["libtorch-dev", "libopenblas0-openmp"];
    private static readonly string s_file = Checkout.At("TorchEngine.props");

    private readonly SortedDictionary<string, string> _properties = [];

    private string Name => _properties["TorchEngine"];

    private string Backend => _properties["TorchBackend"];

    private string Libtorch => _properties.GetValueOrDefault("Libtorch", "");

    /// <summary>Finds or makes the choice, prints it, and installs what the chosen engine needs.</summary>
    public static void Choose(EngineRequest asked)
    {
        if (asked.Engine is not (null or EngineChoice.NuGet or EngineChoice.SystemLibtorch))
        {
            throw new BuildException($"There is no Torch engine {asked.Engine}: it is {EngineChoice.NuGet} or {EngineChoice.SystemLibtorch}.");
        }

        if (asked.Libtorch is not null)
        {
            // MSBuild takes the variable as a property, in whatever folder a project lies.
            asked = asked with { Libtorch = Path.GetFullPath(asked.Libtorch) };
            Environment.SetEnvironmentVariable("LIBTORCH", asked.Libtorch);
        }

        var engine = new TorchEngine();
        if (!engine.Read())
        {
            engine.Probe(asked);
            engine.Write();
            Console.WriteLine($"{engine} now written to TorchEngine.props.");
        }
        else if (engine.Change(asked))
        {
            engine.Write();
            Console.WriteLine($"{engine} changed as asked in TorchEngine.props.");
        }
        else
        {
            Console.WriteLine($"{engine} as TorchEngine.props says.");
        }

        if (engine.Name == EngineChoice.SystemLibtorch)
        {
            Install(engine.Libtorch.Length > 0 ? [Compiler] : [Compiler, .. s_libtorch]);
        }
    }

    /// <inheritdoc/>
    public override string ToString() =>
        $"Torch engine: {Name}{(Name == EngineChoice.NuGet ? $" ({Backend})" : Libtorch.Length > 0 ? $" ({Libtorch})" : "")}; "
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

    /// <summary>Takes over what is asked for beside what is written down, and tells whether that changes it.</summary>
    private bool Change(EngineRequest asked)
    {
        var before = (Name, Backend, Libtorch);
        _properties["TorchEngine"] = asked.Engine ?? (asked.Libtorch is null ? Name : EngineChoice.SystemLibtorch);
        _properties["TorchBackend"] = asked.Backend ?? Backend;
        _properties["Libtorch"] = asked.Libtorch ?? Libtorch;
        return before != (Name, Backend, Libtorch);
    }

    private void Probe(EngineRequest asked)
    {
        _properties["UseMicrosoftMLTokenizers"] = "false";
        _properties["UsePowerShellEngine"] = "false";
        (_properties["TorchEngine"], _properties["TorchBackend"]) = EngineChoice.Decide(asked, TorchProbe.IsWindowsWithNvidia, RunsNuGet, Console.WriteLine);
        _properties["Libtorch"] = asked.Libtorch ?? "";
        foreach (var (property, package, project) in new[]
        {
            ("UseMicrosoftMLTokenizers", "Microsoft.ML.Tokenizers", Checkout.At("src", "Peft", "Peft.csproj")),
            ("UsePowerShellEngine", "System.Management.Automation", Checkout.At("tests", "Peft.Tests", "Peft.Tests.csproj")),
        })
        {
            _properties[property] = "true";
            _properties[property] = Succeeds($"Asking the feed for {package} ...", () => TorchProbe.WhyNotRestored(project, _properties)) ? "true" : "false";
        }
    }

    private bool RunsNuGet(string backend)
    {
        _properties["TorchEngine"] = EngineChoice.NuGet;
        _properties["TorchBackend"] = backend;
        return Succeeds(
            $"Asking the feed for TorchSharp and its libtorch ({backend}), and trying them ...", () => TorchProbe.WhyNotNuGet(Checkout.Root, _properties));
    }

    private static bool Succeeds(string what, Func<string?> whyNot)
    {
        Console.WriteLine(what);
        var reason = whyNot();
        if (reason is not null)
        {
            Console.WriteLine($"  not to be had here: {reason}");
        }

        return reason is null;
    }

    private static void Install(string[] packages)
    {
        if (packages is [Compiler] && Command.IsOnPath(Compiler))
        {
            return;
        }

        if (!OperatingSystem.IsLinux() || !Command.IsOnPath("dpkg-query"))
        {
            throw new BuildException(
                "SystemLibtorch builds on Debian's libtorch, or with g++ on the one that LIBTORCH names. Elsewhere use NuGet's engine "
                + "(TorchEngine=NuGet) with a feed that has TorchSharp.");
        }

        var installed = Command.Capture("dpkg-query", ["-W", "-f", "${Package} ${db:Status-Status}\n", .. packages]).Output
            .Split('\n').Where(line => line.EndsWith(" installed", StringComparison.Ordinal)).Select(line => line.Split(' ')[0]).ToHashSet();
        var missing = packages.Where(package => !installed.Contains(package)).ToArray();
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
