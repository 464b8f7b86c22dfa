using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A classifier of rows over an encoder-decoder: the decoder reads the row too, and its output where the text ends is classified.</summary>
internal sealed class EndOfTextClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classification_head";

    private readonly EndOfTextClassifier _head;

    /// <summary>Makes the model.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="backboneName">Where the backbone stands in the tree; null for the family's place.</param>
    public EndOfTextClassificationModel(ModelConfig config, string className, string? backboneName = null)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone(backboneName);
        _head = Add(HeadName, new EndOfTextClassifier(config.Family.Stem + "ClassificationHead", Backbone.Width, LabelCount, config.Number("classifier_dropout") ?? 0));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<string> FreshModules => [HeadName];

    /// <inheritdoc/>
    public override Tensor Logits(BackboneOutput output, ForwardContext context) => _head.Forward(output, Config, context);
}
