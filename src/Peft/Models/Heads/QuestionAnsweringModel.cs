using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A model that says where in a text an answer begins and ends.</summary>
public class QuestionAnsweringModel : PretrainedModel
{
    private readonly Linear _projection;

    /// <summary>Makes the structure of a family's model.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="prefix">Where the backbone stands; null for the family's.</param>
    public QuestionAnsweringModel(ModelConfig config, string className, string? prefix = null)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone(prefix);
        _projection = Add("qa_outputs", new Linear(Backbone.Width, 2, hasBias: true));
    }

    /// <inheritdoc/>
    public override string? ClassificationHead => "qa_outputs";

    /// <summary>Scores of positions as the answer's first and last.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, 2].</returns>
    public Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        context = output.In(context);
        return _projection.Forward(Transform(output.Hidden, context), context);
    }

    /// <summary>What stands between the backbone and the output layer: nothing in most families.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    protected virtual Tensor Transform(Tensor hidden, ForwardContext context) => hidden;

    /// <summary>Mean of the cross-entropies of the first and the last position; positions beyond the row are ignored.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="logits">[rows · length, 2], known to the tape.</param>
    /// <param name="starts">int64 [rows], counted in tokens.</param>
    /// <param name="ends">int64 [rows].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A scalar, known to the tape.</returns>
    public Tensor Loss(BackboneOutput output, Tensor logits, Tensor starts, Tensor ends, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        ArgumentNullException.ThrowIfNull(context);
        var (first, last) = (Target(starts), Target(ends));
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [logits], []) : Form(logits);

        Tensor Form(Tensor scores)
        {
            var values = scores.to(ScalarType.Float32).view(output.Rows, output.Length, 2);
            return nn.functional.cross_entropy(values.select(2, 0), first).add(nn.functional.cross_entropy(values.select(2, 1), last)).div(2);
        }

        Tensor Target(Tensor positions)
        {
            var shifted = positions.add(output.VirtualLength);
            return shifted.masked_fill(shifted.ge(output.Length), -100);
        }
    }
}
