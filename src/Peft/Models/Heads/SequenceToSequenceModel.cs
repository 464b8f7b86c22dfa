using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>An encoder and a decoder that writes one text from another.</summary>
public class SequenceToSequenceModel : PretrainedModel
{
    private readonly string _headName;
    private readonly bool _isTied;

    /// <summary>Makes the structure of a family's model.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="isTied">Whether the output layer shares the input embedding where no file says otherwise.</param>
    /// <param name="scale">Multiplies logits (T5 scales the outputs of its decoder).</param>
    /// <param name="headName">Name of the output layer.</param>
    public SequenceToSequenceModel(ModelConfig config, string className, bool isTied, double scale = 1, string headName = "lm_head")
        : base(config.Family.Backbone(config), className)
    {
        _isTied = isTied;
        _headName = headName;
        AddBackbone();
        Head = new Head(Add(headName, new Linear(Backbone.Width, Backbone.TokenEmbeddings!.Count))) 
        {
            Scale = scale,
            Offset = () => Carried.FirstOrDefault(static entry => entry.Name == "final_logits_bias").Tensor,
        };
    }

    /// <inheritdoc/>
    public override string? OutputEmbeddings => _headName;

    /// <summary>The token that everything the decoder writes begins with.</summary>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    public int DecoderStartId => (int)DecoderIds.Start(Config);

    /// <inheritdoc/>
    public override IEnumerable<(string Owner, string Follower)> TiedParameters => _isTied ? PossibleTies : base.TiedParameters;

    /// <inheritdoc/>
    public override IEnumerable<(string Owner, string Follower)> PossibleTies =>
        [.. base.TiedParameters, ($"{Backbone.TokenEmbeddings!.Path}.weight", $"{_headName}.weight")];

    /// <summary>The output layer and its loss.</summary>
    protected Head Head { get; }

    /// <summary>
    /// The inputs of a pass that learns labels: the decoder reads them one position later, behind its start token, with padding where
    /// nothing is labelled.
    /// </summary>
    /// <param name="inputs">The encoder's inputs.</param>
    /// <param name="labels">int64 [rows, decoder length].</param>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    public ModelInputs WithDecoderIds(ModelInputs inputs, Tensor labels)
    {
        ArgumentNullException.ThrowIfNull(inputs);
        ArgumentNullException.ThrowIfNull(labels);
        return inputs with { DecoderIds = DecoderIds.Shift(Config, labels) };
    }

    /// <summary>Logits of every position of the decoder; not for training.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · decoder length, vocabulary].</returns>
    public virtual Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        return Head.Logits(output.Hidden, output.In(context));
    }

    /// <summary>Logits of some hidden states; not for training.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[n, vocabulary].</returns>
    public virtual Tensor Logits(Tensor hidden, ForwardContext context) => Head.Logits(hidden, context);

    /// <summary>Mean cross-entropy of the decoder's labelled positions, and what the backbone adds to it.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="labels">int64 [rows, decoder length]; position t is compared with the label of t; -100 is ignored.</param>
    /// <param name="divisor">What the sum over labelled positions is divided by; null for their number.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="labelSmoothing">Share of the target that is spread over the whole vocabulary.</param>
    /// <returns>A scalar in float32, known to the tape.</returns>
    public virtual Tensor Loss(BackboneOutput output, Tensor labels, double? divisor, ForwardContext context, double labelSmoothing = 0)
    {
        ArgumentNullException.ThrowIfNull(output);
        var loss = Head.Loss(output.Hidden, output.Aligned(labels), divisor, output.In(context), labelSmoothing, offset: 0);
        return output.AuxiliaryLoss is { } auxiliary ? ResidualSum.Forward(loss, auxiliary, context) : loss;
    }
}
