using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine.Cuda;

/// <summary>Kernels on an NVIDIA GPU: compiled by the libtorch's own compiler when they are first used, started on the stream that the engine uses.</summary>
internal sealed unsafe class CudaKernels : KernelDevice
{
    /// <summary>The variable that leaves everything on a GPU to the engine's operators: <c>off</c>.</summary>
    public const string Setting = "PEFT_GPU_KERNELS";

    private static readonly string[] s_files = ["Common.cu", "Products.cu", "FourBit.cu", "Rows.cu", "Attention.cu", "Training.cu"];
    private static readonly Lazy<CudaCompiler?> s_compiler = new(CudaCompiler.Load);
    private static readonly Lazy<nint> s_data = new(FindData);
    private static readonly ConcurrentDictionary<int, CudaKernels?> s_devices = new();

    private readonly CudaDriver _driver;
    private readonly nint _context;
    private readonly ConcurrentDictionary<ScalarType, nint> _modules = new();
    private readonly ConcurrentDictionary<(string, ScalarType), nint> _functions = new();

    private CudaKernels(CudaDriver driver, nint context) => (_driver, _context) = (driver, context);

    /// <summary>Why kernels are not used, for the description of the engine; null where they are, or no GPU was used so far.</summary>
    public static string? Failure { get; private set; }

    /// <summary>The kernels of a GPU; null where its driver or the compiler is missing, or the variable says so.</summary>
    public static CudaKernels? Of(int device) => s_devices.GetOrAdd(device, Make);

    /// <inheritdoc/>
    public override nint Address(Tensor tensor) => Data(tensor);

    /// <inheritdoc/>
    public override void Launch<T>(string kernel, ScalarType type, in T arguments, long blocks, int threads)
    {
        var before = _driver.Enter(_context);
        try
        {
            var function = _functions.TryGetValue((kernel, type), out var found) ? found : _functions.GetOrAdd((kernel, type), key => _driver.Function(Module(key.Item2), key.Item1));
            fixed (T* pointer = &arguments)
            {
                _driver.Launch(function, pointer, blocks, threads);
            }
        }
        finally
        {
            _ = _driver.Enter(before);
        }
    }

    /// <summary>The kernels' source.</summary>
    /// <param name="first">The file that stands before the others; null for none.</param>
    internal static string Source(string? first) => string.Concat((first is null ? s_files : s_files.Prepend(first)).Select(Text));

    /// <summary>The number that elements of a type have in the source.</summary>
    internal static int Number(ScalarType type) => type switch
    {
        ScalarType.Float32 => 0,
        ScalarType.BFloat16 => 1,
        ScalarType.Float16 => 2,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "No kernels are compiled for it."),
    };

    private static string Text(string file)
    {
        using var stream = typeof(CudaKernels).Assembly.GetManifestResourceStream($"Peft.Engine.Cuda.Kernels.{file}")!;
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }

    /// <summary>Tries a kernel of each kind of trouble (no driver, no compiler, a GPU that the compiler doesn't know) once; whatever fails leaves the operators.</summary>
    private static CudaKernels? Make(int device)
    {
        if (string.Equals(Environment.GetEnvironmentVariable(Setting), "off", StringComparison.OrdinalIgnoreCase))
        {
            return Fails($"{Setting} is off");
        }

        if (s_data.Value == 0 || CudaDriver.Loaded is not { } driver)
        {
            return Fails("the driver's library is missing");
        }

        if (s_compiler.Value is null)
        {
            return Fails("NVRTC is missing");
        }

        try
        {
            using var tried = ones([1], ScalarType.Float32, new Device(DeviceType.CUDA, device));
            var kernels = new CudaKernels(driver, driver.ContextOf(Data(tried)));
            kernels.Launch("add_scaled", ScalarType.Float32, new KernelArguments.ScaledSum { Right = Data(tried), Y = Data(tried), Count = 1, Scale = 3 }, 1, 32);
            return tried.item<float>() == 3 ? kernels : Fails("a kernel computes another number");
        }
        catch (ExternalException error)
        {
            return Fails(error.Message);
        }
    }

    private static CudaKernels? Fails(string why)
    {
        Failure = why;
        return null;
    }

    private static nint Data(Tensor tensor) => tensor.NumberOfElements == 0 ? 0 : ((delegate* unmanaged<nint, nint>)s_data.Value)(tensor.Handle);

    /// <summary>The engine's function that tells where a tensor's elements are, which its wrapper gives for the processor's memory alone.</summary>
    private static nint FindData()
    {
        foreach (var (library, function) in (ReadOnlySpan<(string, string)>)[("LibTorchSharp", "THSTensor_data"), ("PeftTorchShim", "peft_data")])
        {
            var path = OperatingSystem.IsLinux() ? LinuxProcess.LoadedFile($"lib{library}") : library;
            if (path is not null && NativeLibrary.TryLoad(path, out var handle) && NativeLibrary.TryGetExport(handle, function, out var found))
            {
                return found;
            }
        }

        return 0;
    }

    private nint Module(ScalarType type) => _modules.GetOrAdd(type, element => _driver.LoadModule(s_compiler.Value!.Compile(
        Source("Gpu.cu"), $"--gpu-architecture={_driver.Architecture()}", FormattableString.Invariant($"-DELEMENT={Number(element)}"), "--std=c++17")));
}
