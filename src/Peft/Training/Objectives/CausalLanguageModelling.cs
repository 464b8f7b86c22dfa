using Peft.Engine;
using Peft.Models;
using Peft.Models.Heads;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// The cross-entropy of each labelled token given those before it. Which tokens carry loss (all, the completion, the assistant's turns)
/// is the data's choice: the others are labelled -100.
/// </summary>
/// <param name="labelSmoothing">Share of each target's probability spread over the whole vocabulary.</param>
/// <param name="noiseAlpha">Strength of the noise on the embeddings in training (NEFTune, Jain et al. 2023); null for none.</param>
public sealed class CausalLanguageModelling(double labelSmoothing = 0, double? noiseAlpha = null) : IObjective
{
    /// <inheritdoc/>
    public string Name => "causal_language_modelling";

    /// <summary>Whether the loss is the plain sum over tokens, and embeddings are left as they are.</summary>
    internal bool IsPlain => labelSmoothing == 0 && noiseAlpha is null;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var (causal, batch, context) = (pass.Causal, pass.Batch, pass.Context);
        ModelInputs inputs = batch.InputIds;
        inputs = noiseAlpha is { } alpha && context.IsTraining
            ? inputs with { Embeddings = AddNoise(causal.Backbone.Embed(inputs, context), alpha, context) }
            : inputs;
        return causal.Loss(causal.Forward(inputs, context), batch.Labels, pass.Divisor, context, labelSmoothing);
    }

    /// <summary>Noise that is uniform within alpha / sqrt(length · width), with the padded length.</summary>
    internal static Tensor AddNoise(Tensor embeddings, double alpha, ForwardContext context)
    {
        var bound = alpha / Math.Sqrt(context.Length * embeddings.size(1));
        var noise = RandomDraws.Uniform(embeddings.shape, embeddings.dtype, embeddings.device, context.Generator).mul_(2 * bound).sub_(bound);
        return context.Tape is { } tape ? tape.Autograd(inputs => inputs[0].add(noise), [embeddings], []) : embeddings.add(noise);
    }
}
