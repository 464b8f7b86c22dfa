using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// The two orders that an image [rows, channels, height, width] may have in memory: channel by channel, and position by position, each with its channels side by side. In the second
/// one convolutions need no copies in an order of their own, and the positions are rows of a matrix as they stand.
/// </summary>
internal static class ImageLayout
{
    /// <summary>Whether an image lies position by position, and not channel by channel as well.</summary>
    public static bool IsByPosition(Tensor image)
    {
        if (image.dim() != 4 || image.stride(1) != 1 || image.is_contiguous())
        {
            return false;
        }

        using var positions = Positions(image);
        return positions.is_contiguous();
    }

    /// <summary>Whether the two orders of an image, or of a convolution's weight, differ: there are several channels and several positions.</summary>
    public static bool HasTwoOrders(Tensor image) => image.dim() == 4 && image.size(1) > 1 && image.size(2) * image.size(3) > 1;

    /// <summary>The same image position by position.</summary>
    public static Tensor ByPosition(Tensor image)
    {
        using var scope = NewDisposeScope();
        return FromPositions(Positions(image).contiguous()).MoveToOuterDisposeScope();
    }

    /// <summary>Memory for an image, position by position.</summary>
    /// <param name="shape">[rows, channels, height, width].</param>
    /// <param name="type">Type of its elements.</param>
    /// <param name="device">Where it is.</param>
    public static Tensor Empty(long[] shape, ScalarType type, Device device)
    {
        using var positions = empty([shape[0], shape[2], shape[3], shape[1]], type, device);
        return FromPositions(positions);
    }

    /// <summary>A view [rows, height, width, channels].</summary>
    public static Tensor Positions(Tensor image) => image.permute(0, 2, 3, 1);

    /// <summary>A view [rows, channels, height, width] of what <see cref="Positions"/> gives.</summary>
    public static Tensor FromPositions(Tensor positions) => positions.permute(0, 3, 1, 2);
}
