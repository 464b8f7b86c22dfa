using System.Runtime.InteropServices;

namespace Peft.Build;

/// <summary>Asks the feed, by restoring and running what this repository is made of: no list of packages is kept twice.</summary>
internal static class TorchProbe
{
    /// <summary>Whether this is Windows with NVIDIA's driver.</summary>
    public static bool IsWindowsWithNvidia { get; } = OperatingSystem.IsWindows() && NativeLibrary.TryLoad("nvcuda.dll", out _);

    /// <summary>Why a sum computed with NuGet's TorchSharp doesn't come out here, or null where it does.</summary>
    /// <remarks>The feed may lack it, and its libraries may need a newer system.</remarks>
    /// <param name="root">A checkout.</param>
    /// <param name="properties">MSBuild properties, among them <c>TorchEngine</c> and <c>TorchBackend</c>.</param>
    public static string? WhyNotNuGet(string root, IReadOnlyDictionary<string, string> properties) =>
        OperatingSystem.IsLinux() && RuntimeInformation.OSArchitecture != Architecture.X64
            ? "NuGet's libtorch for Linux is for x64 only."
            : WhyNot(properties, "run", "--project", Path.Combine(root, "build", "probe"), "--configuration", "Release", "--verbosity", "quiet");

    /// <summary>Why a project doesn't restore with these properties, or null where it does.</summary>
    public static string? WhyNotRestored(string project, IReadOnlyDictionary<string, string> properties) => WhyNot(properties, "restore", project);

    private static string? WhyNot(IReadOnlyDictionary<string, string> properties, params string[] arguments)
    {
        var (code, output) = Command.Capture("dotnet", arguments, properties);
        if (code == 0)
        {
            return null;
        }

        var lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return lines.FirstOrDefault(line => line.Contains("error ", StringComparison.Ordinal)) ?? lines.LastOrDefault() ?? $"exit code {code}";
    }
}
