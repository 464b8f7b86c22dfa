using System.Runtime.InteropServices;
using System.Text;

namespace Peft.Engine.Cuda;

/// <summary>The few functions of NVIDIA's driver that load and start kernels.</summary>
internal sealed unsafe class CudaDriver
{
    private const int ContextOfPointer = 1;
    private const int MajorCapability = 75;
    private const int MinorCapability = 76;

    private static readonly Lazy<CudaDriver?> s_loaded = new(Load);

    private readonly delegate* unmanaged<int*, int> _currentDevice;
    private readonly delegate* unmanaged<nint*, int> _currentContext;
    private readonly delegate* unmanaged<nint, int> _setCurrentContext;
    private readonly delegate* unmanaged<void*, int, nint, int> _pointerAttribute;
    private readonly delegate* unmanaged<int*, int, int, int> _deviceAttribute;
    private readonly delegate* unmanaged<nint*, byte*, int> _loadModule;
    private readonly delegate* unmanaged<nint*, nint, byte*, int> _function;
    private readonly delegate* unmanaged<nint, uint, uint, uint, uint, uint, uint, uint, nint, void**, void**, int> _launch;
    private readonly delegate* unmanaged<int, byte**, int> _errorText;

    private CudaDriver(nint library)
    {
        _currentDevice = (delegate* unmanaged<int*, int>)NativeLibrary.GetExport(library, "cuCtxGetDevice");
        _currentContext = (delegate* unmanaged<nint*, int>)NativeLibrary.GetExport(library, "cuCtxGetCurrent");
        _setCurrentContext = (delegate* unmanaged<nint, int>)NativeLibrary.GetExport(library, "cuCtxSetCurrent");
        _pointerAttribute = (delegate* unmanaged<void*, int, nint, int>)NativeLibrary.GetExport(library, "cuPointerGetAttribute");
        _deviceAttribute = (delegate* unmanaged<int*, int, int, int>)NativeLibrary.GetExport(library, "cuDeviceGetAttribute");
        _loadModule = (delegate* unmanaged<nint*, byte*, int>)NativeLibrary.GetExport(library, "cuModuleLoadData");
        _function = (delegate* unmanaged<nint*, nint, byte*, int>)NativeLibrary.GetExport(library, "cuModuleGetFunction");
        _launch = (delegate* unmanaged<nint, uint, uint, uint, uint, uint, uint, uint, nint, void**, void**, int>)NativeLibrary.GetExport(library, "cuLaunchKernel");
        _errorText = (delegate* unmanaged<int, byte**, int>)NativeLibrary.GetExport(library, "cuGetErrorString");
    }

    /// <summary>The driver; null where there is none.</summary>
    public static CudaDriver? Loaded => s_loaded.Value;

    /// <summary>The context that a piece of a GPU's memory belongs to, which is the engine's.</summary>
    /// <param name="memory">An address in a GPU's memory.</param>
    public nint ContextOf(nint memory)
    {
        nint owner = 0;
        Check(_pointerAttribute(&owner, ContextOfPointer, memory));
        return owner;
    }

    /// <summary>Makes a context the calling thread's own.</summary>
    /// <returns>The one that was, to be made its own again: by it the engine knows which of several GPUs a thread works on.</returns>
    public nint Enter(nint context)
    {
        nint current = 0;
        Check(_currentContext(&current));
        if (current != context)
        {
            Check(_setCurrentContext(context));
        }

        return current;
    }

    /// <summary>The name of the instruction set of the GPU whose context is the thread's own, such as <c>sm_90</c>.</summary>
    public string Architecture()
    {
        int device = 0, major = 0, minor = 0;
        Check(_currentDevice(&device));
        Check(_deviceAttribute(&major, MajorCapability, device));
        Check(_deviceAttribute(&minor, MinorCapability, device));
        return FormattableString.Invariant($"sm_{major}{minor}");
    }

    /// <summary>Loads compiled kernels into the thread's context.</summary>
    public nint LoadModule(byte[] image)
    {
        nint module = 0;
        fixed (byte* bytes = image)
        {
            Check(_loadModule(&module, bytes));
        }

        return module;
    }

    /// <summary>A kernel by its name.</summary>
    public nint Function(nint module, string name)
    {
        nint function = 0;
        fixed (byte* text = Encoding.UTF8.GetBytes(name + '\0'))
        {
            Check(_function(&function, module, text));
        }

        return function;
    }

    /// <summary>Starts a kernel on the stream that the engine uses.</summary>
    public void Launch(nint function, void* arguments, long blocks, int threads)
    {
        Check(_launch(function, checked((uint)blocks), 1, 1, (uint)threads, 1, 1, 0, 0, &arguments, null));
    }

    private static CudaDriver? Load()
    {
        try
        {
            return NativeLibrary.TryLoad(OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1", out var library) ? new CudaDriver(library) : null;
        }
        catch (EntryPointNotFoundException)
        {
            // One that lacks a function is as good as none.
            return null;
        }
    }

    private void Check(int result)
    {
        if (result != 0)
        {
            // The text that libtorch has too, by which running out of memory is known.
            byte* text = null;
            _ = _errorText(result, &text);
            throw new ExternalException($"CUDA error: {Marshal.PtrToStringUTF8((nint)text) ?? $"{result}"}");
        }
    }
}
