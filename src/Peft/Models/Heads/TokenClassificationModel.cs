using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A model that gives each token one score a label. What its head is made of is the family's; the loss is the same for all.</summary>
public abstract class TokenClassificationModel : PretrainedModel
{
    /// <summary>Wraps a backbone.</summary>
    /// <param name="backbone">The backbone.</param>
    /// <param name="className">transformers' class name.</param>
    protected TokenClassificationModel(Backbone backbone, string className)
        : base(backbone, className)
    {
    }

    /// <summary>Scores of positions.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, labels].</returns>
    public abstract Tensor Logits(BackboneOutput output, ForwardContext context);

    /// <summary>Mean cross-entropy over labelled tokens.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="logits">[rows · length, labels], known to the tape.</param>
    /// <param name="labels">int64 [rows, tokens]; -100 is ignored.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A scalar, known to the tape.</returns>
    public Tensor Loss(BackboneOutput output, Tensor logits, Tensor labels, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        ArgumentNullException.ThrowIfNull(context);
        var targets = output.Aligned(labels).reshape(-1);
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [logits], []) : Form(logits);

        Tensor Form(Tensor scores) => nn.functional.cross_entropy(scores.to(ScalarType.Float32), targets);
    }
}

/// <summary>The head that most families have: dropout and a linear layer.</summary>
public sealed class LinearTokenClassificationModel : TokenClassificationModel
{
    private readonly Dropout _dropout;
    private readonly Linear _score;

    /// <summary>Makes the structure of a family's model.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="headName">Name of the output layer.</param>
    /// <param name="dropout">Probability with which the head drops an element of its input in training; null for the configuration's.</param>
    public LinearTokenClassificationModel(ModelConfig config, string className, string headName = "score", double? dropout = null)
        : base(config.Family.Backbone(config), className)
    {
        ClassificationHead = headName;
        AddBackbone();
        _dropout = Add("dropout", new Dropout(dropout ?? config.Number("classifier_dropout") ?? config.Number("hidden_dropout") ?? 0.1));
        _score = Add(headName, new Linear(Backbone.Width, SequenceClassificationModel.Labels(config), hasBias: true));
    }

    /// <inheritdoc/>
    public override string? ClassificationHead { get; }

    /// <inheritdoc/>
    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        context = output.In(context);
        return _score.Forward(_dropout.Forward(output.Hidden, context), context);
    }
}
