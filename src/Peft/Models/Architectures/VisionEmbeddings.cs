using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>The sizes of what a vision encoder reads.</summary>
/// <param name="Channels">Colours.</param>
/// <param name="Height">Rows of pixels.</param>
/// <param name="Width">Pixels in a row.</param>
/// <param name="Patch">Side of a patch, in pixels.</param>
public sealed record VisionShape(long Channels, long Height, long Width, long Patch)
{
    /// <summary>Positions of a row: a vector of the whole, and the patches.</summary>
    public long Positions => 1 + (Height / Patch * (Width / Patch));

    /// <summary>The sizes that a configuration says.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="patch">The patch where it says none.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>.</exception>
    internal static VisionShape Of(ModelConfig config, long patch)
    {
        long[] Both(string key, long fallback) => config.Node(key) is System.Text.Json.Nodes.JsonArray ? [.. config.Numbers(key)!.Select(static number => (long)number)] : [config.Size(key, fallback), config.Size(key, fallback)];
        var (image, own) = (Both("image_size", 224), Both("patch_size", patch));
        return image.Length == 2 && own.Length == 2 && own[0] == own[1] && own[0] > 0 && image[0] >= own[0] && image[1] >= own[0] ? new VisionShape(config.Size("num_channels", 3), image[0], image[1], own[0])
            : throw new PeftException("ModelConfigInvalid", "The configuration's 'image_size' and 'patch_size' must be a number or two, and patches square and no larger than the image.") { Target = "patch_size" };
    }
}

/// <summary>What vision encoders begin with: a vector of the whole image in front of those of its patches.</summary>
internal static class VisionEmbeddings
{
    /// <summary>Cuts images into patches and puts the vector in front.</summary>
    /// <param name="patches">The convolution that makes a vector of each patch.</param>
    /// <param name="whole">The vector, of the width's elements.</param>
    /// <param name="positions">A vector for each position, of positions · width elements.</param>
    /// <param name="inputs">The images.</param>
    /// <param name="shape">What they must be.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · positions, width].</returns>
    /// <exception cref="PeftException"><c>PixelsMissing</c> or <c>ImageSizeUnfit</c>.</exception>
    public static Tensor Forward(Convolution patches, Parameter whole, Parameter positions, ModelInputs inputs, VisionShape shape, ForwardContext context)
    {
        var pixels = inputs.Pixels ?? throw new PeftException("PixelsMissing", "This model reads images, and was given none.") { RecommendedAction = "Give images, as rows with the column image." };
        if (pixels.dim() != 4 || pixels.size(1) != shape.Channels || pixels.size(2) != shape.Height || pixels.size(3) != shape.Width)
        {
            throw new PeftException("ImageSizeUnfit", $"The model reads images of [{shape.Channels}, {shape.Height}, {shape.Width}], and was given [{string.Join(", ", pixels.shape[1..])}].") { RecommendedAction = "Resize images to what the model's configuration says." };
        }

        using var scope = NewDisposeScope();
        var typed = pixels.to(patches.Weight.DataType);
        context.Tape?.AddRoot(typed);
        var (rows, width) = (pixels.size(0), patches.Outputs);
        return ParameterTensor.Run(
            given => cat([given[1].view(1, 1, width).expand(rows, 1, width), given[0].flatten(2).transpose(1, 2)], 1).add(given[2].view(1, -1, width)).view(-1, width),
            [patches.Forward(typed, context)],
            [whole, positions],
            context).MoveToOuterDisposeScope();
    }
}
