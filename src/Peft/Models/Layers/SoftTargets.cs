using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// What another model would predict at labelled positions, its likeliest tokens alone, as the target of a loss (Hinton et al. 2015): for positions with scores z, targets p over
/// a few tokens and temperature T, <c>share · T² · (Σ p log p − Σ p log softmax(z / T)) + (1 − share) · cross-entropy of the label</c>. The targets are asked for as scores are formed,
/// a piece at a time, so that neither model's scores are ever in memory as a whole.
/// </summary>
/// <param name="of">Gives for positions, as indices of all, the tokens, int64 [positions, k], and their probabilities at that temperature, float32 [positions, k], which sum to 1.</param>
/// <param name="temperature">What scores are divided by before probabilities are made of them.</param>
/// <param name="share">How much they count beside the labels, from 0 to 1.</param>
public sealed class SoftTargets(Func<Tensor, (Tensor Ids, Tensor Probabilities)> of, double temperature, double share)
{
    /// <summary>Writes the losses of some positions, and returns their gradients with respect to the scores.</summary>
    /// <param name="logits">Scores, float32 [positions, vocabulary].</param>
    /// <param name="positions">Which positions.</param>
    /// <param name="targets">Their labels.</param>
    /// <param name="losses">Takes the losses, [positions].</param>
    /// <param name="wantsGradient">Whether gradients are wanted.</param>
    internal Tensor? Form(Tensor logits, Tensor positions, Tensor targets, Tensor losses, bool wantsGradient)
    {
        var (ids, wanted) = of(positions);
        var columns = targets.unsqueeze(1);
        var soft = logits.div(temperature);
        soft.sub_(soft.logsumexp(1, keepdim: true));
        var divergence = wanted.mul(wanted.clamp_min(1e-30).log().sub_(soft.gather(1, ids))).sum(1);
        var hard = logits.logsumexp(1).sub_(logits.gather(1, columns).squeeze(1));
        losses.copy_(divergence.mul(share * temperature * temperature).add_(hard, 1 - share));
        if (!wantsGradient)
        {
            return null;
        }

        // T² times the gradient through z / T.
        var gradient = soft.exp_().scatter_add_(1, ids, wanted.neg()).mul_(share * temperature);
        if (share < 1)
        {
            gradient.add_(logits.softmax(1).scatter_add_(1, columns, full_like(columns, -1, ScalarType.Float32)), 1 - share);
        }

        return gradient;
    }
}
