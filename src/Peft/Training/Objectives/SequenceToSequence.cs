using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// The cross-entropy of what the decoder of an encoder-decoder writes. As in transformers each micro batch is a plain mean, so that their gradients add up, and with label smoothing
/// a mean over the tokens of the whole step; <c>average</c> makes it the latter always.
/// </summary>
public sealed class SequenceToSequence : IObjective
{
    private readonly double _labelSmoothing;
    private readonly bool _averages;

    /// <summary>Reads the option <c>average</c>.</summary>
    internal SequenceToSequence(double labelSmoothing, NamedOptions options)
    {
        _labelSmoothing = labelSmoothing;
        _averages = options.Flag("average") ?? labelSmoothing > 0;
    }

    /// <inheritdoc/>
    public string Name => "sequence_to_sequence";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.SequenceToSequence;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var model = pass.Head<SequenceToSequenceModel>("a model with an encoder and a decoder", "such a head, such as T5ForConditionalGeneration");
        var (batch, context) = (pass.Batch, pass.Context);
        var inputs = batch.DecoderIds is null ? model.WithDecoderIds(batch.Inputs, batch.Labels) : batch.Inputs;
        return model.Loss(model.Forward(inputs, context), batch.Labels, _averages ? pass.Divisor : null, context, _labelSmoothing);
    }
}
