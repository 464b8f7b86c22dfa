using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>
/// Memory of values that go before those made after them, as a norm's do once a layer has read them. The C library (glibc) fits an aligned block into
/// a hole only where the hole has room for the alignment as well, which the hole of a block of the same size hasn't: what is kept of a pass would
/// lie between holes, a fifth of its size together. So a short-lived value takes a little more than it needs, and a kept one fits where it was.
/// </summary>
internal static class ShortLived
{
    private const long RoomBytes = 1024;

    /// <summary>Smaller ones leave holes that don't matter.</summary>
    private const long LeastBytes = 1 << 20;

    /// <summary>A tensor on the processor, not yet filled.</summary>
    /// <param name="shape">Its shape.</param>
    /// <param name="type">Its type.</param>
    /// <returns>A contiguous tensor.</returns>
    public static Tensor Empty(long[] shape, ScalarType type)
    {
        long elements = 1, bytes = type.ElementSize();
        foreach (var size in shape)
        {
            elements *= size;
        }

        if (elements * bytes < LeastBytes)
        {
            return empty(shape, type);
        }

        using var roomy = empty([elements + (RoomBytes / bytes)], type);
        using var flat = roomy.narrow(0, 0, elements);
        return flat.view(shape);
    }
}
