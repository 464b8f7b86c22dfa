using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;

namespace Peft.Engine.Cuda;

/// <summary>NVIDIA's run-time compiler (NVRTC), which libtorch for CUDA brings along.</summary>
internal sealed unsafe class CudaCompiler
{
    private readonly delegate* unmanaged<nint*, byte*, byte*, int, byte**, byte**, int> _create;
    private readonly delegate* unmanaged<nint, int, byte**, int> _compile;
    private readonly delegate* unmanaged<nint, nuint*, int> _imageSize;
    private readonly delegate* unmanaged<nint, byte*, int> _image;
    private readonly delegate* unmanaged<nint, nuint*, int> _logSize;
    private readonly delegate* unmanaged<nint, byte*, int> _log;
    private readonly delegate* unmanaged<nint*, int> _destroy;

    private CudaCompiler(nint library)
    {
        _create = (delegate* unmanaged<nint*, byte*, byte*, int, byte**, byte**, int>)NativeLibrary.GetExport(library, "nvrtcCreateProgram");
        _compile = (delegate* unmanaged<nint, int, byte**, int>)NativeLibrary.GetExport(library, "nvrtcCompileProgram");
        _imageSize = (delegate* unmanaged<nint, nuint*, int>)NativeLibrary.GetExport(library, "nvrtcGetCUBINSize");
        _image = (delegate* unmanaged<nint, byte*, int>)NativeLibrary.GetExport(library, "nvrtcGetCUBIN");
        _logSize = (delegate* unmanaged<nint, nuint*, int>)NativeLibrary.GetExport(library, "nvrtcGetProgramLogSize");
        _log = (delegate* unmanaged<nint, byte*, int>)NativeLibrary.GetExport(library, "nvrtcGetProgramLog");
        _destroy = (delegate* unmanaged<nint*, int>)NativeLibrary.GetExport(library, "nvrtcDestroyProgram");
    }

    /// <summary>The compiler; null where it isn't there, or is too old (before CUDA 11.2).</summary>
    public static CudaCompiler? Load()
    {
        try
        {
            return Candidates().Select(static path => LoadWithBuiltins(path)).FirstOrDefault(static library => library != 0) is var found and not 0 ? new CudaCompiler(found) : null;
        }
        catch (EntryPointNotFoundException)
        {
            return null;
        }
    }

    /// <summary>Compiles a program.</summary>
    /// <param name="source">CUDA C++.</param>
    /// <param name="options">The compiler's options.</param>
    /// <returns>What a driver loads.</returns>
    /// <exception cref="ExternalException">The program is refused; the message is the compiler's.</exception>
    public byte[] Compile(string source, params string[] options)
    {
        nint program = 0;
        fixed (byte* text = Text(source))
        {
            Check(_create(&program, text, null, 0, null, null), "the program could not be made");
        }

        try
        {
            if (Run(program, options) != 0)
            {
                nuint length = 0;
                Check(_logSize(program, &length), "there is no log");
                var log = new byte[length];
                fixed (byte* bytes = log)
                {
                    Check(_log(program, bytes), "there is no log");
                }

                throw new ExternalException($"The GPU's kernels could not be compiled: {Encoding.UTF8.GetString(log)}");
            }

            nuint size = 0;
            Check(_imageSize(program, &size), "there is no image");
            var image = new byte[size];
            fixed (byte* bytes = image)
            {
                Check(_image(program, bytes), "there is no image");
            }

            return image;
        }
        finally
        {
            _ = _destroy(&program);
        }
    }

    private static byte[] Text(string text) => Encoding.UTF8.GetBytes(text + '\0');

    private static void Check(int result, string what)
    {
        if (result != 0)
        {
            throw new ExternalException($"The GPU's kernels could not be compiled: {what} ({result}).");
        }
    }

    private int Run(nint program, string[] options)
    {
        var handles = Array.ConvertAll(options, static option => GCHandle.Alloc(Text(option), GCHandleType.Pinned));
        var texts = stackalloc byte*[options.Length];
        for (var i = 0; i < handles.Length; i++)
        {
            texts[i] = (byte*)handles[i].AddrOfPinnedObject();
        }

        var result = _compile(program, options.Length, texts);
        Array.ForEach(handles, static handle => handle.Free());
        return result;
    }

    /// <summary>Loads it; what it is built of lies beside it and is not always found from there.</summary>
    private static nint LoadWithBuiltins(string path)
    {
        if (Path.GetDirectoryName(path) is { Length: > 0 } folder && Directory.Exists(folder))
        {
            foreach (var part in Directory.GetFiles(folder, OperatingSystem.IsWindows() ? "nvrtc-builtins*.dll" : "libnvrtc-builtins.so*").Where(static file => !file.Contains(".alt.", StringComparison.Ordinal)))
            {
                _ = NativeLibrary.TryLoad(part, out _);
            }
        }

        return NativeLibrary.TryLoad(path, out var library) ? library : 0;
    }

    /// <summary>Where it may lie: loaded already, beside libtorch, in the packages beside that of a Python installation, or where the system looks.</summary>
    private static IEnumerable<string> Candidates()
    {
        if (OperatingSystem.IsWindows())
        {
            using var process = Process.GetCurrentProcess();
            var beside = process.Modules.Cast<ProcessModule>().FirstOrDefault(static module => module.ModuleName.StartsWith("torch_cuda", StringComparison.OrdinalIgnoreCase))?.FileName;
            return beside is null ? [] : Files(Path.GetDirectoryName(beside)!, "nvrtc64_*.dll");
        }

        return OperatingSystem.IsLinux() ? CandidatesOnLinux() : [];
    }

    [System.Runtime.Versioning.SupportedOSPlatform("linux")]
    private static IEnumerable<string> CandidatesOnLinux()
    {
        if (LinuxProcess.LoadedFile("libnvrtc.so") is { } loaded)
        {
            yield return loaded;
        }

        if (LinuxProcess.LoadedFile("libtorch_cuda.so") is { } torch)
        {
            var folder = Path.GetDirectoryName(torch)!;
            var packages = Path.GetFullPath(Path.Combine(folder, "..", "..", "nvidia"));
            var folders = new[] { folder }.Concat(Directory.Exists(packages) ? Directory.GetDirectories(packages).Order(StringComparer.Ordinal).Select(static package => Path.Combine(package, "lib")) : []);
            foreach (var file in folders.SelectMany(static place => Files(place, "libnvrtc*.so*")))
            {
                yield return file;
            }
        }

        foreach (var name in (string[])["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "/usr/local/cuda/lib64/libnvrtc.so"])
        {
            yield return name;
        }
    }

    private static IEnumerable<string> Files(string folder, string pattern) => Directory.Exists(folder)
        ? Directory.GetFiles(folder, pattern)
            .Where(static file => !file.Contains("builtins", StringComparison.Ordinal) && !file.Contains(".alt.", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal)
        : [];
}
