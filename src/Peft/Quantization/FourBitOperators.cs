using System.Collections.Concurrent;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>
/// Unpacks four-bit blocks by the engine's operators alone, on whatever device they lie: a byte looks up both of its numbers at once, as the parts of a
/// complex one, and each block is multiplied with its scale. To the same bits as <see cref="FourBitBlocks.Dequantize"/>.
/// </summary>
internal static class FourBitOperators
{
    // What is between a look-up and its product stays in a GPU's cache so.
    private const long SliceElements = 1 << 23;

    private static readonly ConcurrentDictionary<(string Type, DeviceType Device, int Index), Tensor> s_tables = new();

    /// <summary>Unpacks numbers into memory that is there.</summary>
    /// <param name="parts">What the blocks consist of, on the target's device.</param>
    /// <param name="target">Takes the values: floating point, contiguous.</param>
    /// <param name="stored">The type of the weight before it was quantised, to which values are rounded first.</param>
    public static void Unpack(FourBitParts parts, Tensor target, ScalarType stored)
    {
        using var scope = NewDisposeScope();
        var (bytes, scales, into) = (parts.Packed.view(-1), Scales(parts), target.view(-1));
        var pairs = Table(parts.Type.Name, target.device, () => complex(
            tensor(Enumerable.Range(0, 256).Select(code => parts.Type.Values[code >> 4]).ToArray()),
            tensor(Enumerable.Range(0, 256).Select(code => parts.Type.Values[code & 15]).ToArray())));
        var (count, size) = (target.NumberOfElements, (long)parts.BlockSize);
        var full = count / size;
        var blocks = SliceElements / size;
        for (var from = 0L; from < full; from += blocks)
        {
            using var slice = NewDisposeScope();
            var some = Math.Min(blocks, full - from);
            var values = Look(pairs, bytes.narrow(0, from * size / 2, some * size / 2)).view(some, size);
            values.mul_(scales.narrow(0, from, some).unsqueeze(1));
            into.narrow(0, from * size, some * size).view(some, size).copy_(Rounded(values, stored, target.dtype));
        }

        if (full * size < count)
        {
            var start = full * size / 2;
            var values = Look(pairs, bytes.narrow(0, start, bytes.size(0) - start)).view(-1).narrow(0, 0, count - (full * size));
            into.narrow(0, full * size, count - (full * size)).copy_(Rounded(values.mul_(scales.narrow(0, full, 1)), stored, target.dtype));
        }
    }

    /// <summary>The scales in float32 [blocks], of the caller's dispose scope.</summary>
    /// <param name="parts">What the blocks consist of.</param>
    public static Tensor Scales(FourBitParts parts)
    {
        if (parts.NestedScales is not { } nested)
        {
            return parts.Scales.alias();
        }

        using var scope = NewDisposeScope();
        var codes = parts.Scales.view(-1).to(ScalarType.Int32);
        var table = ScaleValues(codes.device);
        var factors = nested.view(-1, 1).expand(-1, FourBitWeight.NestedBlockSize).reshape(-1).narrow(0, 0, codes.size(0));
        return table.index_select(0, codes).mul_(factors).add_(parts.NestedOffset).MoveToOuterDisposeScope();
    }

    /// <summary>The number that each byte of a quantised scale stands for, float32 [256].</summary>
    public static Tensor ScaleValues(Device device) => Table(nameof(DynamicMap), device, static () => tensor(DynamicMap.Signed.Values.ToArray()));

    /// <summary>The value of each code, float32 [16].</summary>
    public static Tensor Values(FourBitType type, Device device) => Table($"{type.Name} values", device, () => tensor(type.Values.ToArray()));

    private static Tensor Look(Tensor pairs, Tensor bytes) => pairs.index_select(0, bytes.to(ScalarType.Int32)).view_as_real();

    private static Tensor Rounded(Tensor values, ScalarType stored, ScalarType target) =>
        stored == target || stored == ScalarType.Float32 ? values : values.to(stored);

    /// <summary>A table that stays on a device for as long as the process runs: a copy to a GPU waits for it.</summary>
    private static Tensor Table(string name, Device device, Func<Tensor> make) => s_tables.GetOrAdd((name, device.type, device.index), _ =>
    {
        using var scope = NewDisposeScope();
        return make().to(device).DetachFromDisposeScope();
    });
}
