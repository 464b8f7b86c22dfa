using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A model that fills in tokens where they stand. What lies between the backbone and the output layer is the family's.</summary>
public abstract class MaskedModel : PretrainedModel
{
    /// <summary>Wraps a backbone.</summary>
    /// <param name="backbone">The backbone.</param>
    /// <param name="className">transformers' class name.</param>
    protected MaskedModel(Backbone backbone, string className)
        : base(backbone, className)
    {
    }

    /// <summary>The output layer and its loss.</summary>
    protected abstract Head Head { get; }

    /// <summary>Logits of every position; not for training.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, vocabulary].</returns>
    public Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        context = output.In(context);
        return Head.Logits(Transform(output.Hidden, context), context);
    }

    /// <summary>Mean cross-entropy of labelled tokens, each in its own place.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="labels">int64 [rows, tokens]; -100 is ignored.</param>
    /// <param name="divisor">What the sum over labelled positions is divided by; null for their number.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A scalar in float32, known to the tape.</returns>
    public Tensor Loss(BackboneOutput output, Tensor labels, double? divisor, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        context = output.In(context);
        return Head.Loss(Transform(output.Hidden, context), output.Aligned(labels), divisor, context, offset: 0);
    }

    /// <summary>What stands between the backbone and the output layer.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    protected abstract Tensor Transform(Tensor hidden, ForwardContext context);
}
