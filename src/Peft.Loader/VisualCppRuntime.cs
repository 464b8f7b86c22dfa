using System.Runtime.InteropServices;

namespace Peft.Loader;

/// <summary>The one thing that the module needs on Windows and doesn't bring: Microsoft's Visual C++ runtime, which its licence leaves to an installer.</summary>
internal static class VisualCppRuntime
{
    /// <summary>The libraries of it that libtorch asks for.</summary>
    internal static readonly string[] Libraries = ["MSVCP140.dll", "VCRUNTIME140.dll", "VCRUNTIME140_1.dll"];

    /// <summary>Says what is missing and what to do, before libtorch fails with a name of its own libraries.</summary>
    /// <exception cref="DllNotFoundException">A library of the runtime isn't there.</exception>
    internal static void Require(Func<string, bool> loads)
    {
        var missing = Libraries.Where(library => !loads(library)).ToArray();
        if (missing.Length > 0)
        {
            throw new DllNotFoundException(
                $"Peft needs Microsoft's Visual C++ runtime, of which {string.Join(" and ", missing)} can't be loaded. "
                + "Install it from https://aka.ms/vs/17/release/vc_redist.x64.exe and start PowerShell again.");
        }
    }

    /// <summary>Whether the system finds a library, which stays loaded.</summary>
    internal static bool Loads(string library) => NativeLibrary.TryLoad(library, out _);
}
