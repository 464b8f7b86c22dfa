using System.Collections.Concurrent;
using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.InteropServices;
using Peft.Engine.Cuda;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine.Cuda;

/// <summary>
/// The GPU's kernels on the processor: their source behind <c>Emulation.cpp</c>, compiled by the system's C++ compiler. Within it (see <see cref="Use"/>)
/// whatever asks for a GPU's kernels gets these, for tensors in the processor's memory.
/// </summary>
internal sealed unsafe class EmulatedKernels : KernelDevice
{
    private static readonly Lazy<Dictionary<ScalarType, nint>?> s_compiled = new(Compile);

    // Blocks keep what they share in static memory.
    private static readonly Lock s_gate = new();

    private readonly Dictionary<ScalarType, nint> _libraries;
    private readonly ConcurrentDictionary<string, int> _launches = new(StringComparer.Ordinal);

    private EmulatedKernels(Dictionary<ScalarType, nint> libraries) => _libraries = libraries;

    /// <summary>How often each kernel was started.</summary>
    public IReadOnlyDictionary<string, int> Launches => _launches;

    /// <summary>Runs something with them. The test is skipped where there is no C++ compiler.</summary>
    public static void Use(Action<EmulatedKernels> run)
    {
        Skip.If(s_compiled.Value is null, "There is no C++ compiler.");

        // Of its own, so that other tests' launches, at the same time, aren't counted.
        var kernels = new EmulatedKernels(s_compiled.Value!);
        ForProcessor = kernels;
        try
        {
            run(kernels);
        }
        finally
        {
            ForProcessor = null;
        }
    }

    /// <inheritdoc/>
    public override nint Address(Tensor tensor) => TensorMemory.Address(tensor);

    /// <inheritdoc/>
    public override void Launch<T>(string kernel, ScalarType type, in T arguments, long blocks, int threads)
    {
        _launches.AddOrUpdate(kernel, 1, static (_, count) => count + 1);
        var function = (delegate* unmanaged<void*, long, int, void>)NativeLibrary.GetExport(_libraries[type], kernel);
        fixed (T* pointer = &arguments)
        {
            lock (s_gate)
            {
                function(pointer, blocks, threads);
            }
        }
    }

    private static Dictionary<ScalarType, nint>? Compile()
    {
        var folder = Directory.CreateTempSubdirectory("peft-kernels-").FullName;
        try
        {
            var libraries = new Dictionary<ScalarType, nint>();
            var emulation = File.ReadAllText(Path.Combine(RepositoryRoot.Folder, "tests", "Peft.Tests", "Engine", "Cuda", "Emulation.cpp"));
            foreach (var type in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16])
            {
                var (source, library) = (Path.Combine(folder, $"{type}.cpp"), Path.Combine(folder, $"{type}.so"));
                File.WriteAllText(source, emulation + CudaKernels.Source(null));
                if (Compile(["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", FormattableString.Invariant($"-DELEMENT={CudaKernels.Number(type)}"), "-o", library, source]) is { } errors)
                {
                    throw new InvalidOperationException($"The kernels could not be compiled: {errors}");
                }

                libraries.Add(type, NativeLibrary.Load(library));
            }

            return libraries;
        }
        catch (Win32Exception)
        {
            return null;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static string? Compile(string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo("g++", arguments) { RedirectStandardError = true, UseShellExecute = false })!;
        var errors = process.StandardError.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0 ? null : errors;
    }
}
