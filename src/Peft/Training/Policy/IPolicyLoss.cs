using Peft.Models.Layers;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training.Policy;

/// <summary>A loss over answers that were drawn and rated.</summary>
internal interface IPolicyLoss : IObjective
{
    /// <summary>How answers are drawn and rated.</summary>
    PolicySettings Settings { get; }

    /// <summary>What the distance of an answer's log-probability from the reference's is multiplied by and taken from its reward; 0 where the loss sees to the reference, or none is wanted.</summary>
    double RewardPenalty => 0;

    /// <inheritdoc/>
    double IObjective.Temperature => Settings.Temperature;

    /// <summary>By how much each answer is better than others.</summary>
    /// <param name="rewards">Rewards; those of the answers to one prompt side by side, <see cref="PolicySettings.GroupSize"/> of them.</param>
    double[] Advantages(double[] rewards);

    /// <summary>How undecided the model is about each token: the entropy of what it predicts there.</summary>
    static TokenStatistic Entropy() => new(static (logits, _) => logits.logsumexp(1).sub_(logits.softmax(1).mul(logits).sum(1)));

    /// <summary>The mean of figures of tokens over those that are learnt.</summary>
    static Tensor Mean(Tensor figures, Tensor learnt) => figures.mul(learnt).sum().div(learnt.sum().clamp_min(1));
}
