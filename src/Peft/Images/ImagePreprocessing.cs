using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Images;

/// <summary>How an image becomes what a vision encoder reads, as its <c>preprocessor_config.json</c> says; without one as its family's models are published.</summary>
public sealed class ImagePreprocessing
{
    private static readonly double[] s_half = [0.5, 0.5, 0.5];
    private static readonly double[] s_clipMean = [0.48145466, 0.4578275, 0.40821073];
    private static readonly double[] s_clipDeviation = [0.26862954, 0.26130258, 0.27577711];

    private readonly double[] _mean;
    private readonly double[] _deviation;
    private readonly bool _crops;
    private readonly (int Width, int Height) _size;

    private ImagePreprocessing(PretrainedModel model)
    {
        var image = model.Backbone.Image!;
        var document = model.PreprocessorConfig;
        var isClip = model.Config.ModelType.StartsWith("clip", StringComparison.Ordinal);
        _size = ((int)image.Width, (int)image.Height);
        _crops = (bool?)document?["do_center_crop"] ?? isClip;
        (_mean, _deviation) = (bool?)document?["do_normalize"] == false ? ([0, 0, 0], [1, 1, 1])
            : (Three(document, "image_mean") ?? (isClip ? s_clipMean : s_half), Three(document, "image_std") ?? (isClip ? s_clipDeviation : s_half));
    }

    /// <summary>That of a model.</summary>
    /// <param name="model">A model that reads images.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: its configuration doesn't say three numbers where it should.</exception>
    public static ImagePreprocessing Of(PretrainedModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return new ImagePreprocessing(model);
    }

    /// <summary>An image in the model's size: cut to its shape, or stretched where the model was trained so.</summary>
    /// <param name="image">The image.</param>
    public PixelImage Sized(PixelImage image)
    {
        ArgumentNullException.ThrowIfNull(image);
        return (image.Width, image.Height) == _size ? image : _crops ? image.Cover(_size.Width, _size.Height) : image.Resize(_size.Width, _size.Height);
    }

    /// <summary>What the model reads of images in its size.</summary>
    /// <param name="images">The images.</param>
    /// <returns>[rows, 3, height, width], float32.</returns>
    public Tensor Pixels(IEnumerable<PixelImage> images)
    {
        using var scope = NewDisposeScope();
        Tensor Colours(double[] values) => tensor([.. values.Select(static value => (float)value)]).view(1, -1, 1, 1);

        // The images' own tensors are in [-1, 1].
        var shares = stack(images.Select(static image => image.ToTensor())).add(1).div(2);
        return shares.sub(Colours(_mean)).div(Colours(_deviation)).MoveToOuterDisposeScope();
    }

    private static double[]? Three(JsonObject? document, string key) => document?[key] switch
    {
        null => null,
        JsonArray { Count: 3 } values when values.All(static value => value?.GetValueKind() == JsonValueKind.Number) => [.. values.Select(static value => value.Deserialize<double>())],
        var other => throw new PeftException("ModelConfigInvalid", $"'{key}' of preprocessor_config.json must be three numbers; it is {other.ToJsonString()}.") { Target = key },
    };
}
