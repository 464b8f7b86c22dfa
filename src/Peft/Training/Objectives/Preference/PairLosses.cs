using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Peft.Training.Objectives.Preference;

/// <summary>What the losses over pairs are formulas of; each tensor is float32 [pairs].</summary>
/// <param name="Chosen">How much more likely the chosen answer is than under the reference, as the divergence measures it (a log-ratio under reverse KL).</param>
/// <param name="Rejected">The same of the rejected answer.</param>
internal sealed record PairScores(Tensor Chosen, Tensor Rejected)
{
    /// <summary>Log-ratio of the chosen answer, whatever the divergence.</summary>
    public required Tensor ChosenRatio { get; init; }

    /// <summary>Log-ratio of the rejected answer.</summary>
    public required Tensor RejectedRatio { get; init; }

    /// <summary>By how much the model prefers the chosen answer, as a difference of log-probabilities.</summary>
    public required Tensor Preference { get; init; }

    /// <summary>By how much the reference does.</summary>
    public required Tensor ReferencePreference { get; init; }

    /// <summary>Tokens of the chosen answers.</summary>
    public required Tensor ChosenLength { get; init; }

    /// <summary>Tokens of the rejected answers.</summary>
    public required Tensor RejectedLength { get; init; }

    /// <summary>The mean negative log-likelihood of the chosen answers' tokens, a scalar.</summary>
    public required Tensor ChosenLoss { get; init; }

    /// <summary>How far the model may leave the reference: the smaller, the farther.</summary>
    public required double Beta { get; init; }

    /// <summary>How often a pair is thought to be the wrong way round.</summary>
    public required double Smoothing { get; init; }

    /// <summary>How sharply DiscoPOP passes from one of its parts to the other.</summary>
    public required double Temperature { get; init; }

    /// <summary>Beta times the difference of the scores.</summary>
    public Tensor Margin => Chosen.sub(Rejected).mul(Beta);
}

/// <summary>The losses over pairs by TRL's names (<c>loss_type</c>). A new one is a line here.</summary>
internal static class PairLosses
{
    /// <summary>Each maps scores to the loss of every pair, or to a scalar.</summary>
    public static readonly IReadOnlyDictionary<string, Func<PairScores, Tensor>> ByName = new Dictionary<string, Func<PairScores, Tensor>>(StringComparer.Ordinal)
    {
        // DPO (Rafailov et al. 2023), and with answers of different lengths made comparable.
        ["sigmoid"] = static scores => logsigmoid(scores.Margin).neg(),
        ["sigmoid_norm"] = static scores => logsigmoid(MeanMargin(scores).mul(scores.Beta)).neg(),

        // SLiC (Zhao et al. 2023), in RSO's form (Liu et al. 2023).
        ["hinge"] = static scores => relu(scores.Margin.neg().add(1)),

        // IPO (Azar et al. 2023), over the mean of an answer's tokens.
        ["ipo"] = static scores => MeanMargin(scores).sub(1 / (2 * scores.Beta)).square(),

        // EXO (Ji et al. 2024).
        ["exo_pair"] = static scores => scores.Margin.sigmoid().mul(logsigmoid(scores.Margin).sub(Math.Log(1 - scores.Smoothing)))
            .add(scores.Margin.neg().sigmoid().mul(logsigmoid(scores.Margin.neg()).sub(Math.Log(scores.Smoothing)))),

        // NCA (Chen et al. 2024).
        ["nca_pair"] = static scores => logsigmoid(scores.Chosen.mul(scores.Beta)).neg()
            .sub(logsigmoid(scores.Chosen.mul(-scores.Beta)).mul(0.5))
            .sub(logsigmoid(scores.Rejected.mul(-scores.Beta)).mul(0.5)),

        // Robust DPO (Chowdhury et al. 2024).
        ["robust"] = static scores => logsigmoid(scores.Margin).mul(scores.Smoothing - 1).add(logsigmoid(scores.Margin.neg()).mul(scores.Smoothing))
            .div(1 - (2 * scores.Smoothing)),

        // BCO (Jung et al. 2024) without a baseline.
        ["bco_pair"] = static scores => logsigmoid(scores.Chosen.mul(scores.Beta)).add(logsigmoid(scores.Rejected.mul(-scores.Beta))).neg(),

        // SPPO (Wu et al. 2024) with hard labels.
        ["sppo_hard"] = static scores => scores.Chosen.sub(0.5 / scores.Beta).square().add(scores.Rejected.add(0.5 / scores.Beta).square()),

        // AOT (Melnyk et al. 2024): distributions over the batch, not pairs.
        ["aot"] = static scores => Smoothed(Sorted(scores.Preference).sub(Sorted(scores.ReferencePreference)), scores),
        ["aot_unpaired"] = static scores => Smoothed(Sorted(scores.ChosenRatio).sub(Sorted(scores.RejectedRatio)), scores),

        // APO (D'Oosterlinck et al. 2024).
        ["apo_zero"] = static scores => scores.ChosenRatio.mul(-scores.Beta).sigmoid().add(scores.RejectedRatio.mul(scores.Beta).sigmoid()),
        ["apo_down"] = static scores => scores.ChosenRatio.mul(scores.Beta).sigmoid().add(scores.Margin.neg().sigmoid()),

        // DiscoPOP (Lu et al. 2024).
        ["discopop"] = static scores =>
        {
            var turn = scores.Margin.div(scores.Temperature).sigmoid();
            return logsigmoid(scores.Margin).mul(turn.sub(1)).add(scores.Margin.neg().exp().mul(turn));
        },

        // Plain imitation of the chosen answers.
        ["sft"] = static scores => scores.ChosenLoss,
    };

    private static Tensor MeanMargin(PairScores scores) => scores.Chosen.div(scores.ChosenLength).sub(scores.Rejected.div(scores.RejectedLength));

    private static Tensor Sorted(Tensor values) => values.sort(0).Values;

    private static Tensor Smoothed(Tensor difference, PairScores scores) => logsigmoid(difference.mul(scores.Beta)).mul(scores.Smoothing - 1)
        .sub(logsigmoid(difference.mul(-scores.Beta)).mul(scores.Smoothing));
}
