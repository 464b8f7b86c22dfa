using System.Numerics;
using Peft.Engine.Cuda;
using Peft.Engine.Steps;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>Four-bit blocks by a GPU's kernels: the product with a row, and unpacking, each reading the blocks as they are stored.</summary>
internal static class FourBitLaunches
{
    private const int Threads = 128;

    // A lane of the product takes 32 numbers of one scale, whose sixteen bytes are read at once.
    private const int Step = 32;
    private const int RowsOfBlock = 8;
    private const int UnpackedByThread = 8;

    /// <summary>y = W x + b + residual; null where sizes or types have no kernel for it.</summary>
    /// <param name="device">Runs it.</param>
    /// <param name="parts">The weight.</param>
    /// <param name="rows">Outputs.</param>
    /// <param name="x">[1, in].</param>
    /// <param name="target">Takes the product.</param>
    public static StepOperation? Product(KernelDevice device, FourBitParts parts, long rows, Tensor x, KernelArguments.ProductTarget target) =>
        x.size(-1) % Step == 0 && KernelDevice.Serves(x)
            ? new LaunchOperation<KernelArguments.FourBitProduct>(
                device, "four_bit_product", x.dtype, (KernelDevice.Blocks(rows, RowsOfBlock), Threads),
                new KernelArguments.FourBitProduct { X = device.Address(x), Blocks = Blocks(device, parts), Target = target, Rows = rows, Width = x.size(-1) })
            : null;

    /// <summary>Unpacks numbers into memory that is there, to the bits of <see cref="FourBitOperators.Unpack"/>.</summary>
    /// <returns>Whether there is a kernel for it; otherwise nothing was written.</returns>
    public static bool Unpack(KernelDevice device, FourBitParts parts, Tensor target, ScalarType stored)
    {
        if (!KernelDevice.Serves(target) || stored is not (ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16))
        {
            return false;
        }

        var count = target.NumberOfElements;
        var arguments = new KernelArguments.FourBitUnpack
        {
            Blocks = Blocks(device, parts), Target = device.Address(target), Count = count, Stored = stored == target.dtype ? 0 : CudaKernels.Number(stored),
        };
        device.Launch("four_bit_unpack", target.dtype, arguments, KernelDevice.Blocks(count, UnpackedByThread * Threads), Threads);
        return true;
    }

    private static KernelArguments.FourBitBlocks Blocks(KernelDevice device, FourBitParts parts) => new()
    {
        Packed = device.Address(parts.Packed),
        Scales = device.Address(parts.Scales),
        NestedScales = parts.NestedScales is null ? 0 : device.Address(parts.NestedScales),
        ScaleValues = parts.NestedScales is null ? 0 : device.Address(FourBitOperators.ScaleValues(parts.Scales.device)),
        Values = device.Address(FourBitOperators.Values(parts.Type, parts.Packed.device)),
        Offset = parts.NestedOffset,
        Shift = BitOperations.Log2((uint)parts.BlockSize),
    };
}
