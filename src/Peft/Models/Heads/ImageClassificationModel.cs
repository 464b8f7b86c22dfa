using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A vision encoder that gives each image a score for each class.</summary>
public sealed class ImageClassificationModel : SequenceClassificationModel
{
    /// <summary>Name of what such a model is for.</summary>
    public const string Task = "IMAGE_CLASSIFICATION";

    private const string HeadName = "classifier";

    private readonly Linear _classifier;
    private readonly Func<BackboneOutput, ForwardContext, Tensor> _pool;

    /// <summary>Makes the structure of a family's model.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="pool">Makes a vector of each image's hidden states, [rows, width].</param>
    public ImageClassificationModel(ModelConfig config, string className, Func<BackboneOutput, ForwardContext, Tensor> pool)
        : base((config ?? throw new ArgumentNullException(nameof(config))).Family.Backbone(config), className)
    {
        AddBackbone();
        _pool = pool;
        _classifier = Add(HeadName, new Linear(Backbone.Width, LabelCount, hasBias: true));
    }

    /// <inheritdoc/>
    public override string? ClassificationHead => HeadName;

    /// <inheritdoc/>
    public override Tensor Logits(BackboneOutput output, ForwardContext context) => _classifier.Forward(_pool(output, context), context);
}
