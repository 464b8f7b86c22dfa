using System.Runtime.InteropServices;

namespace TorchSharp;

/// <summary>The C++ shim's functions. Those that can fail return -1 or null and leave the reason to <see cref="Check(int)"/>.</summary>
internal static unsafe partial class Native
{
    private const string Library = "PeftTorchShim";

    static Native() => Check(peft_initialize(Environment.ProcessorCount));

    /// <summary>The exception TorchSharp throws, with libtorch's message of the call that just failed on this thread.</summary>
    internal static ExternalException Error() => new(Marshal.PtrToStringUTF8(peft_last_error()));

    internal static int Check(int result) => result >= 0 ? result : throw Error();

    internal static long Check(long result) => result >= 0 ? result : throw Error();

    internal static nint Check(nint result) => result != 0 ? result : throw Error();

    [LibraryImport(Library)]
    private static partial int peft_initialize(int threads);

    [LibraryImport(Library)]
    private static partial nint peft_last_error();

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial nint peft_operator(string name, string overload);

    [LibraryImport(Library)]
    internal static partial int peft_call(nint op, NativeValue* arguments, int count, NativeValue* results, int capacity);

    [LibraryImport(Library)]
    internal static partial void peft_free(nint memory);

    [LibraryImport(Library)]
    internal static partial void peft_release(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long peft_dim(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long peft_numel(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int peft_dtype(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int peft_device_type(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int peft_device_index(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int peft_is_contiguous(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long peft_storage_offset(nint tensor);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int peft_sizes(nint tensor, long* sizes);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int peft_strides(nint tensor, long* strides);

    [LibraryImport(Library)]
    internal static partial nint peft_data(nint tensor);

    [LibraryImport(Library)]
    internal static partial nint peft_from_memory(void* memory, long* sizes, int dim, int dtype, delegate* unmanaged<nint, void> release, nint context);

    [LibraryImport(Library)]
    internal static partial int peft_requires_grad(nint tensor);

    [LibraryImport(Library)]
    internal static partial int peft_is_leaf(nint tensor);

    [LibraryImport(Library)]
    internal static partial int peft_set_requires_grad(nint tensor, int value);

    [LibraryImport(Library)]
    internal static partial nint peft_grad(nint tensor);

    [LibraryImport(Library)]
    internal static partial int peft_set_grad(nint tensor, nint grad);

    [LibraryImport(Library)]
    internal static partial int peft_retain_grad(nint tensor);

    [LibraryImport(Library)]
    internal static partial int peft_backward(
        nint* tensors, int count, nint* grads, int gradCount, int retainGraph, int createGraph, nint* inputs, int inputCount);

    [LibraryImport(Library)]
    internal static partial int peft_gradients(
        nint* outputs, int outputCount, nint* inputs, int inputCount, nint* grads, int gradCount, int retainGraph, int createGraph, int allowUnused, nint* results);

    [LibraryImport(Library)]
    internal static partial int peft_grad_enabled();

    [LibraryImport(Library)]
    internal static partial void peft_set_grad_enabled(int enabled);

    [LibraryImport(Library)]
    internal static partial int peft_inference_mode_enabled();

    [LibraryImport(Library)]
    internal static partial nint peft_enter_inference_mode(int enabled);

    [LibraryImport(Library)]
    internal static partial void peft_leave_inference_mode(nint guard);

    [LibraryImport(Library)]
    internal static partial nint peft_generator(ulong seed, int deviceType, int deviceIndex);

    [LibraryImport(Library)]
    internal static partial nint peft_default_generator(int deviceType, int deviceIndex);

    [LibraryImport(Library)]
    internal static partial void peft_release_generator(nint generator);

    [LibraryImport(Library)]
    internal static partial int peft_generator_set_seed(nint generator, ulong seed);

    [LibraryImport(Library)]
    internal static partial ulong peft_generator_seed(nint generator);

    [LibraryImport(Library)]
    internal static partial ulong peft_generator_initial_seed(nint generator);

    [LibraryImport(Library)]
    internal static partial nint peft_generator_state(nint generator);

    [LibraryImport(Library)]
    internal static partial int peft_generator_set_state(nint generator, nint state);

    [LibraryImport(Library)]
    internal static partial int peft_num_threads();

    [LibraryImport(Library)]
    internal static partial int peft_num_interop_threads();

    [LibraryImport(Library)]
    internal static partial int peft_set_num_threads(int threads);

    [LibraryImport(Library)]
    internal static partial int peft_set_num_interop_threads(int threads);

    [LibraryImport(Library)]
    internal static partial nint peft_version();

    [LibraryImport(Library)]
    internal static partial int peft_cuda_device_count();

    [LibraryImport(Library)]
    internal static partial int peft_cudnn_is_available();

    [LibraryImport(Library)]
    internal static partial int peft_cuda_synchronize(int index);
}
