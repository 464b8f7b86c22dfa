using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Loader;

namespace Peft.Loader;

/// <summary>
/// Holds the cmdlets and what they depend on apart from the host, which may have other versions of the same assemblies.
/// PowerShell's own assemblies and .NET's are not found here and so come from the host.
/// </summary>
internal sealed class ModuleLoadContext : AssemblyLoadContext
{
    private readonly AssemblyDependencyResolver _resolver;
    private readonly string _folder;

    /// <param name="assemblyPath">The assembly of the cmdlets; its <c>.deps.json</c> lies beside it.</param>
    public ModuleLoadContext(string assemblyPath)
        : base("Peft")
    {
        _resolver = new AssemblyDependencyResolver(assemblyPath);
        _folder = Path.GetDirectoryName(assemblyPath)!;
    }

    /// <inheritdoc/>
    protected override Assembly? Load(AssemblyName assemblyName) =>
        _resolver.ResolveAssemblyToPath(assemblyName) is { } path ? LoadFromAssemblyPath(path) : null;

    /// <inheritdoc/>
    protected override nint LoadUnmanagedDll(string unmanagedDllName)
    {
        var path = _resolver.ResolveUnmanagedDllToPath(unmanagedDllName) ?? Candidates(unmanagedDllName).FirstOrDefault(File.Exists);
        return path is null ? 0 : LoadUnmanagedDllFromPath(path);
    }

    /// <summary>Where a native library lies that a build put beside the assemblies without naming it in <c>.deps.json</c>.</summary>
    private IEnumerable<string> Candidates(string name)
    {
        string[] names = OperatingSystem.IsWindows() ? [name, $"{name}.dll"]
            : OperatingSystem.IsMacOS() ? [name, $"lib{name}.dylib", $"{name}.dylib"]
            : [name, $"lib{name}.so", $"{name}.so"];
        string[] folders = [_folder, Path.Combine(_folder, "runtimes", RuntimeInformation.RuntimeIdentifier, "native")];
        return from place in folders from file in names select Path.Combine(place, file);
    }
}
