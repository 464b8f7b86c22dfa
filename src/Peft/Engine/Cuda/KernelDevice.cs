using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine.Cuda;

/// <summary>
/// What runs kernels of our own on tensors in a GPU's memory. They are those of <c>Kernels/*.cu</c>; each takes one struct, whose C# twin stands in
/// <see cref="KernelArguments"/>.
/// </summary>
internal abstract class KernelDevice
{
    private static readonly AsyncLocal<KernelDevice?> s_forProcessor = new();

    /// <summary>What stands in for a GPU: takes the processor's tensors as if they lay on one. For tests.</summary>
    internal static KernelDevice? ForProcessor
    {
        get => s_forProcessor.Value;
        set => s_forProcessor.Value = value;
    }

    /// <summary>What runs kernels on a tensor; null where nothing does, and the engine's operators are all there is.</summary>
    public static KernelDevice? Of(Tensor tensor) => tensor.device_type switch
    {
        DeviceType.CPU => ForProcessor,
        DeviceType.CUDA => CudaKernels.Of(tensor.device_index),
        _ => null,
    };

    /// <summary>Whether kernels can work on a tensor that lies here: elements of a type that they know, without gaps.</summary>
    public static bool Serves(Tensor tensor) => tensor.dtype is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16 && tensor.is_contiguous();

    /// <summary>How many blocks take all of a number of things, some each.</summary>
    public static long Blocks(long count, long each) => (count + each - 1) / each;

    /// <summary>Where a tensor's elements begin; zero for none.</summary>
    public abstract nint Address(Tensor tensor);

    /// <summary>Starts a kernel, after whatever the engine was told to do before and ahead of what it is told later. It may still run when this returns.</summary>
    /// <typeparam name="T">The struct that the kernel takes.</typeparam>
    /// <param name="kernel">Its name.</param>
    /// <param name="type">The type of elements it is compiled for.</param>
    /// <param name="arguments">What it works on. The memory has to stay until later work of the engine uses it again.</param>
    /// <param name="blocks">How many blocks.</param>
    /// <param name="threads">Threads of a block.</param>
    public abstract void Launch<T>(string kernel, ScalarType type, in T arguments, long blocks, int threads)
        where T : unmanaged;
}
