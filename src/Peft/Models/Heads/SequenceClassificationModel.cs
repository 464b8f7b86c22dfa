using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A model that gives each row one score a label. What its head is made of is the family's; the loss is the same for all.</summary>
public abstract class SequenceClassificationModel : PretrainedModel
{
    /// <summary>Wraps a backbone.</summary>
    /// <param name="backbone">The backbone.</param>
    /// <param name="className">transformers' class name.</param>
    protected SequenceClassificationModel(Backbone backbone, string className)
        : base(backbone, className)
    {
        LabelCount = Labels(Config);
    }

    /// <summary>Number of labels.</summary>
    public long LabelCount { get; }

    /// <summary>Scores of rows.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows, labels].</returns>
    public abstract Tensor Logits(BackboneOutput output, ForwardContext context);

    /// <summary>
    /// The loss of scores: mean squared error for one label, cross-entropy for a class a row, binary cross-entropy for several
    /// (<c>problem_type</c>, or what the labels look like).
    /// </summary>
    /// <param name="logits">[rows, labels], known to the tape.</param>
    /// <param name="labels">int64 [rows], float [rows], or float [rows, labels].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A scalar, known to the tape.</returns>
    public Tensor Loss(Tensor logits, Tensor labels, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(labels);
        ArgumentNullException.ThrowIfNull(context);
        var problem = Config.String("problem_type")
            ?? (LabelCount == 1 ? "regression" : labels.is_integral() ? "single_label_classification" : "multi_label_classification");
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [logits], []) : Form(logits);

        Tensor Form(Tensor scores)
        {
            var values = scores.to(ScalarType.Float32);
            return problem switch
            {
                "regression" => values.reshape(-1).sub(labels.reshape(-1)).square().mean(),
                "single_label_classification" => nn.functional.cross_entropy(values, labels),
                _ => nn.functional.binary_cross_entropy_with_logits(values, labels.to(ScalarType.Float32)),
            };
        }
    }

    /// <summary>Number of labels of a configuration.</summary>
    internal static long Labels(ModelConfig config) => config.Size("num_labels", (config.Node("id2label") as JsonObject)?.Count ?? 2);
}

/// <summary>A decoder that reads each row's scores at the last position whose token is not padding.</summary>
public sealed class LastTokenClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "score";

    private readonly LastTokenHead _head;

    /// <summary>Makes the structure of a family's model.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    public LastTokenClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _head = AddHead(HeadName, LabelCount);
    }

    /// <inheritdoc/>
    public override string? ClassificationHead => HeadName;

    /// <inheritdoc/>
    public override Tensor Logits(BackboneOutput output, ForwardContext context) => _head.Scores(output, context);
}
